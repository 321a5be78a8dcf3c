"""Secrets of endpoints: created, stored encrypted, and used to sign as Standard Webhooks says."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

# The prefix by which receivers' libraries recognise a secret.
PREFIX: Final = "whsec_"
# Bytes of a secret: as many as the hash has that is keyed with it.
SECRET_BYTES: Final = 32


class UnreadableSecretError(Exception):
    """A secret was encrypted with a key that is not among those in the settings."""


class Vault:
    """
    Encrypts and decrypts secrets.

    Args:
        keys: Fernet keys, separated by commas: the first encrypts, all of them decrypt.
    """

    def __init__(self, keys: str) -> None:
        self._keys = keys.split(",")

    def seal(self, secret: bytes) -> bytes:
        """Return a secret encrypted, as the database stores it."""
        return self._cipher.encrypt(secret)

    def open(self, sealed: Iterable[bytes]) -> list[bytes]:
        """
        Return stored secrets, decrypted.

        Raises:
            UnreadableSecretError: One was encrypted with another key.
        """
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 -- as below

        try:
            return [self._cipher.decrypt(one) for one in sealed]
        except InvalidToken:
            raise UnreadableSecretError("webhook_key is not the key under which a secret was kept") from None

    @cached_property
    def _cipher(self) -> "MultiFernet":
        # Loaded at first use: a service without webhooks does not pay for it.
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415

        return MultiFernet([Fernet(key) for key in self._keys])


def new_secret() -> bytes:
    """Return a new secret."""
    return secrets.token_bytes(SECRET_BYTES)


def shown(secret: bytes) -> str:
    """Return a secret in the form that its receiver is given."""
    return PREFIX + base64.b64encode(secret).decode()


def signatures(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the signatures of a message, one for each secret."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
