"""Makes requests for expiries, the rows that end due holds. `background/hold_sweeper.py` posts them."""

from hashlib import sha256
from uuid import UUID

from server.ledger.ids import new_transfer_id
from server.ledger.transfers import TransferRequest


def expiry_key(hold: object) -> str:
    """Return the idempotency key of the expiry of a hold, by its id. No caller's key can contain a blank."""
    return f"expiry {hold}"


def expiry(hold: UUID) -> TransferRequest:
    """Return the request that ends a due hold."""
    key = expiry_key(hold)
    return TransferRequest(
        key=key,
        fingerprint=sha256(key.encode()).digest(),
        id=new_transfer_id(),
        source=None,
        destination=None,
        amount=None,
        currency=None,
        reference=None,
        description=None,
        metadata="{}",
        conditions=None,
        request_id="",
        kind="expiry",
        parent=hold,
    )
