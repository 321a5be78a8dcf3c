"""The key that secrets of webhooks are encrypted under, where the embedded servers keep them."""

import base64
import os
from pathlib import Path
from typing import Final

# In the data directory of the embedded servers, readable by its owner only.
KEY_FILE: Final = "webhook.key"
# Bytes of a key of Fernet.
KEY_BYTES: Final = 32


def webhook_key(data_dir: Path) -> str:
    """Return the key in the data directory, made if there is none."""
    path = data_dir / KEY_FILE
    if path.exists():
        return path.read_text(encoding="ascii").strip()
    key = base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()
    # As a whole or not at all: half a key would be no key at the next start.
    draft = path.with_name(f"{KEY_FILE}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return key
