"""Idempotency keys, as headers and items of bulks give them, and the fingerprint that recognizes a repeated request."""

import hashlib
import re
from typing import Final

from server.http.problems import Problem
from server.ledger.limits import IDEMPOTENCY_KEY_LENGTH_MAX

_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}")
# A string of structured fields (RFC 9651, section 3.3.3): only quotes and backslashes are escaped.
_QUOTED_KEY: Final = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')

# Matches a raw key: one that does not begin with a quote and is used as it is.
is_plain_key: Final = re.compile(rf"[\x21\x23-\x7e][\x21-\x7e]{{0,{IDEMPOTENCY_KEY_LENGTH_MAX - 1}}}\Z").match


def parse_key(text: str | None) -> str:
    """
    Return the idempotency key in *text*, which is raw or quoted as a string of structured fields.

    Raises:
        Problem: The key is missing or malformed.
    """
    if text is None:
        raise Problem("idempotency_key_missing")
    key = text
    if text.startswith('"'):
        match = _QUOTED_KEY.fullmatch(text)
        if match is None:
            raise Problem("idempotency_key_invalid")
        key = re.sub(r"\\(.)", r"\1", match[1])
    if not _KEY.fullmatch(key):
        raise Problem("idempotency_key_invalid")
    return key


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """Return SHA-256 over method, path and body as received: requests with the same hash are equal without decoding."""
    digest = hashlib.sha256(f"{method} {path}\n".encode())
    digest.update(body)
    return digest.digest()
