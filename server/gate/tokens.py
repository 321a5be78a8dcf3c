"""Tokens: the form of API keys, and the parts of them that are stored."""

import hashlib
import re
import secrets
import zlib
from typing import Final, NamedTuple

# Bytes of the secret: 256 bits, so that a plain SHA-256 of it is enough.
SECRET_BYTES: Final = 32
# Bytes of the public id.
ID_BYTES: Final = 8

_TOKEN: Final = re.compile(
    r"tsk_(?P<ledger>[0-9a-f]{1,16})_(?P<id>[0-9a-f]{16})_(?P<secret>[0-9a-f]{64})(?P<check>[0-9a-f]{8})"
)
# The same form, to be found in bytes.
TOKEN_FORM: Final = re.compile(re.sub(r"\?P<\w+>", "?:", _TOKEN.pattern).encode())

_ID: Final = re.compile(r"[0-9a-f]{16}")


class NewKey(NamedTuple):
    """A new token, which is shown once, and the id and digest, which are stored."""

    token: str
    id: str
    digest: bytes


class ParsedToken(NamedTuple):
    """The parts of a token: its ledger, the id of its key, and the digest of its secret."""

    ledger_id: int
    id: str
    digest: bytes


def new_key(ledger_id: int) -> NewKey:
    """Make the token of a new key of a ledger."""
    return new_token(ledger_id, secrets.token_hex(ID_BYTES))


def new_token(ledger_id: int, key_id: str) -> NewKey:
    """Make a token of a key: `tsk_<ledger>_<id>_<secret><checksum>`, all in hexadecimal."""
    secret = secrets.token_hex(SECRET_BYTES)
    body = f"tsk_{ledger_id:x}_{key_id}_{secret}"
    return NewKey(f"{body}{zlib.crc32(body.encode()):08x}", key_id, _digest(secret))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(bytes.fromhex(secret)).digest()


def parse_token(token: str) -> ParsedToken | None:
    """Return the parts of a token; None if its form or its checksum shows, without a look-up, that it is not ours."""
    match = _TOKEN.fullmatch(token)
    if match is None or int(match["check"], 16) != zlib.crc32(token[:-8].encode()):
        return None
    ledger_id = int(match["ledger"], 16)
    return ParsedToken(ledger_id, match["id"], _digest(match["secret"])) if ledger_id < 2**63 else None


def is_key_id(text: str) -> bool:
    """Return whether *text* has the form of a public id."""
    return _ID.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Return whether *text* has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def read_key_name(text: str) -> tuple[int | None, str]:
    """
    Return the ledger and the public id of a key, given as a whole token or as a public id, which contains no ledger.

    Raises:
        ValueError: *text* is neither; the message does not repeat it.
    """
    text = text.strip()
    if is_key_id(text):
        return None, text
    parsed = parse_token(text)
    if parsed is None:
        raise ValueError("that is neither the public id of a key (16 digits, see `keys list`) nor a whole key")
    return parsed.ledger_id, parsed.id


def token_name(token: str) -> bytes:
    """Return the hash by which a token is remembered, so that no secret stays in memory after its connection."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
