"""Gives operators of `serve` access to the console."""

import ipaddress
import logging
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Final, NamedTuple

from server.settings import Settings

# In the data directory of the embedded servers, readable only by its owner. Each start makes a new token.
TOKEN_FILE: Final = "console.token"  # noqa: S105 -- its name
# Random bytes in a token.
TOKEN_BYTES: Final = 32

log = logging.getLogger(__name__)


class Access(NamedTuple):
    """The token of the console, or None if there is no console, and what `serve` prints about the console."""

    token: str | None
    said: str = ""


def open_access(settings: Settings, admin: socket.socket, *, embedded: bool) -> Access:
    """
    Return the token from the settings, or make one.

    A new token is printed only on a terminal, because other output may be a log. Otherwise it is written to a file in
    the data directory; if there is none either, there is no console.

    Args:
        admin: The socket on which operators are answered.

        embedded: Whether there is a data directory.

    Raises:
        OSError: The token cannot be written there.
    """
    if not settings.console:
        return Access(None)
    url = f"{_origin(admin)}/console"
    if settings.console_token is not None:
        return Access(settings.console_token, f"Console: {url}")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    # If standard output is closed, sys.stdout is None.
    if sys.stdout is not None and sys.stdout.isatty():
        return Access(token, f"Console: {url}#token={token}")
    if embedded:
        path = Path(settings.data_dir) / TOKEN_FILE
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
        return Access(token, f"Console: {url} (its token is in {path})")
    log.info("there is no console: set console_token, because there is no terminal or data directory for a new token")
    return Access(None)


def _origin(admin: socket.socket) -> str:
    host, port = admin.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
