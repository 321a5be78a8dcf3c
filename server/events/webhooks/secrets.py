"""Secrets of endpoints: made, kept encrypted, and signed with as Standard Webhooks has it."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

# How receivers' libraries know a secret.
PREFIX: Final = "whsec_"
# Bytes of a secret: those of the hash that is keyed with it.
SECRET_BYTES: Final = 32


class UnreadableSecretError(Exception):
    """A secret was encrypted under a key that is not among those in the settings."""


class Vault:
    """
    Encrypts secrets, and reads them again.

    Args:
        keys: Of Fernet, separated by commas: the first encrypts, all of them decrypt.
    """

    def __init__(self, keys: str) -> None:
        self._keys = keys.split(",")

    def seal(self, secret: bytes) -> bytes:
        """Return a secret as the database keeps it."""
        return self._cipher.encrypt(secret)

    def open(self, sealed: Iterable[bytes]) -> list[bytes]:
        """
        Return secrets that the database keeps.

        Raises:
            UnreadableSecretError: One was encrypted under another key.
        """
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 -- as below

        try:
            return [self._cipher.decrypt(one) for one in sealed]
        except InvalidToken:
            raise UnreadableSecretError("webhook_key is not the key under which a secret was kept") from None

    @cached_property
    def _cipher(self) -> "MultiFernet":
        # Loaded at first use: who has no webhooks does not pay for it.
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415

        return MultiFernet([Fernet(key) for key in self._keys])


def new_secret() -> bytes:
    """Make a secret."""
    return secrets.token_bytes(SECRET_BYTES)


def shown(secret: bytes) -> str:
    """Return a secret as its receiver is told it."""
    return PREFIX + base64.b64encode(secret).decode()


def signatures(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the signatures of a message, one of each secret."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
