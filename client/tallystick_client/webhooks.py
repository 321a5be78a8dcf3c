"""Verifies that a webhook comes from the ledger (Standard Webhooks, version 1)."""

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Mapping

import msgspec

from tallystick_client.answers import Event
from tallystick_client.errors import WebhookError

# Seconds allowed for the difference of the two clocks and the way of a message.
TOLERANCE_SECONDS = 300
_PREFIX = "whsec_"
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
# Most signatures that are checked; a server signs with at most five secrets.
_SIGNATURES_MAX = 16


def verify_webhook(
    body: bytes | str, headers: Mapping[str, str], secret: str, tolerance_seconds: float = TOLERANCE_SECONDS
) -> Event:
    """
    Verify a webhook and return its event.

    Args:
        body: The body exactly as received, before any parsing.

        headers: The header fields of the message; their names may be in any case.

        secret: The secret of the endpoint: `whsec_…`.

        tolerance_seconds: How far its time stamp may be in the past or in the future.

    Raises:
        WebhookError: It was not signed with this secret, or its time stamp is too far off: answer 400 and do nothing.

        ValueError: The secret is not valid.
    """
    key = _key(secret)
    named = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = named.get("webhook-id", ""), named.get("webhook-timestamp", "")
    if not message_id or not _TIMESTAMP.fullmatch(timestamp):
        raise WebhookError("webhook-id or webhook-timestamp is missing or wrong")
    if abs(time.time() - int(timestamp)) > tolerance_seconds:
        raise WebhookError(f"webhook-timestamp is more than {tolerance_seconds:g} s off")
    content = body.encode() if isinstance(body, str) else bytes(body)
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + content, hashlib.sha256)
    expected = b"v1," + base64.b64encode(digest)
    signatures = named.get("webhook-signature", "").split(" ")[:_SIGNATURES_MAX]
    # Check all signatures, so that the time taken reveals nothing.
    if not sum(hmac.compare_digest(expected, signature.encode()) for signature in signatures):
        raise WebhookError("no signature matches this secret")
    try:
        return msgspec.json.decode(content, type=Event)
    except msgspec.DecodeError as error:
        raise WebhookError(f"the body is not an event: {error}") from None


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("a secret must be whsec_ followed by base64")
    return key
