"""The key that encrypts the secrets of webhooks, if the service runs with embedded servers."""

import base64
import os
from pathlib import Path
from typing import Final

# In the data directory of the embedded servers, readable only by its owner.
KEY_FILE: Final = "webhook.key"
# Bytes of a Fernet key.
KEY_BYTES: Final = 32


def webhook_key(data_dir: Path) -> str:
    """Return the key in the data directory; make one if there is none."""
    path = data_dir / KEY_FILE
    if path.exists():
        return path.read_text(encoding="ascii").strip()
    key = base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()
    # Write a draft and rename it: a key that was written only in part would be useless at the next start.
    draft = path.with_name(f"{KEY_FILE}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return key
