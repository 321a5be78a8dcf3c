"""Webhooks are verified by Standard Webhooks: what its own library has signed is accepted, and nothing else."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook

from tallystick_client import WebhookError, verify_webhook

SECRET, OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = (
    b'{"specversion":"1.0","id":"shop/4711","source":"/ledgers/shop","type":"tallystick.webhook.test.v1",'
    b'"subject":"x","time":"2026-02-01T12:00:00.000001Z","datacontenttype":"application/json","position":0,"data":{}}'
)


def signed(*secrets: str, at: datetime | None = None, body: bytes = BODY) -> dict[str, str]:
    """Return the header fields of a message signed by the standard's library."""
    at = at or datetime.now(UTC)
    signatures = [Webhook(secret).sign("shop/4711", at, body.decode()) for secret in secrets]
    return {
        "Webhook-Id": "shop/4711",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": " ".join(signatures),
    }


@pytest.mark.parametrize("secrets", [(SECRET,), (SECRET, OTHER), (OTHER, SECRET)], ids=len)
def test_what_the_library_signs(secrets: tuple[str, ...]) -> None:
    """One valid signature of several is enough; header names may have any case; the event is typed."""
    event = verify_webhook(BODY, signed(*secrets), SECRET)
    assert (event.id, event.name, event.position, event.transfer, event.account) == (
        "shop/4711",
        "webhook.test",
        0,
        None,
        None,
    )
    lowered = {name.lower(): value for name, value in signed(*secrets).items()}
    assert verify_webhook(BODY.decode(), lowered, SECRET) == event
    Webhook(SECRET).verify(BODY, lowered)


def off(seconds: float) -> datetime:
    """Return an instant this many seconds from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


# Received instead of BODY with `signed(SECRET)`; made when needed, because signatures expire.
UNTRUSTED: dict[str, tuple[Callable[[], dict[str, str]], bytes, str]] = {
    "another secret": (lambda: signed(OTHER), BODY, "no signature"),
    "another body": (lambda: signed(SECRET), BODY + b" ", "no signature"),
    "another id": (lambda: {**signed(SECRET), "Webhook-Id": "shop/4712"}, BODY, "no signature"),
    "another time": (
        lambda: {**signed(SECRET), "Webhook-Timestamp": str(int(time.time()) + 1)},
        BODY,
        "no signature",
    ),
    "no signature": (lambda: {**signed(SECRET), "Webhook-Signature": ""}, BODY, "no signature"),
    "nonsense": (lambda: {**signed(SECRET), "Webhook-Signature": "v1,é v1a,x " * 50}, BODY, "no signature"),
    "another version": (
        lambda: {**signed(SECRET), "Webhook-Signature": signed(SECRET)["Webhook-Signature"].replace("v1,", "v2,")},
        BODY,
        "no sig",
    ),
    "long ago": (lambda: signed(SECRET, at=off(-400)), BODY, "300 s off"),
    "in the future": (lambda: signed(SECRET, at=off(400)), BODY, "300 s off"),
    "no time": (lambda: {**signed(SECRET), "Webhook-Timestamp": "soon"}, BODY, "missing or wrong"),
    "no fields": (dict, BODY, "missing or wrong"),
    "no event": (lambda: signed(SECRET, body=b"[]"), b"[]", "not an event"),
}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_what_is_not_trusted(name: str) -> None:
    """Wrong secrets, bodies, ids, times and signatures, and bodies that are not events, are refused."""
    headers, body, told = UNTRUSTED[name]
    with pytest.raises(WebhookError, match=told):
        verify_webhook(body, headers(), SECRET)


def test_time_may_be_chosen() -> None:
    """The receiver chooses how old a message may be."""
    assert verify_webhook(BODY, signed(SECRET, at=off(-400)), SECRET, tolerance_seconds=500).id == "shop/4711"
    with pytest.raises(WebhookError):
        verify_webhook(BODY, signed(SECRET, at=off(-4)), SECRET, tolerance_seconds=1)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_?", "wh sec"])
def test_a_secret_that_is_none(secret: str) -> None:
    """With an empty key anybody could sign."""
    with pytest.raises(ValueError, match="a secret must be"):
        verify_webhook(BODY, signed(SECRET), secret)
