"""Posts the expiries that are due at once, without the background process."""

from server.ledger.expiry_requests import expiry
from server.ledger.transfers import Bound
from tests.support.postgres import administer
from tests.support.service import Service

_DUE = """
    SELECT p.ledger_id, p.id FROM tallystick.transfer_progress AS p JOIN tallystick.ledgers AS l ON l.id = p.ledger_id
    WHERE l.name = $1 AND p.remaining > 0 AND p.expires_at <= tallystick.ledger_clock()
    ORDER BY p.expires_at, p.id
"""


async def post_expiries(service: Service, ledger: str) -> int:
    """Post the expiry of each due hold of a ledger, and return how many were posted."""
    assert service.app is not None
    due = await administer(service.database_url, _DUE, ledger)
    if not due:
        return 0
    requests = [expiry(row["id"]) for row in due]
    outcomes = await service.app.posting.post_many(due[0]["ledger_id"], requests, atomic=False)
    return sum(isinstance(outcome, Bound) and outcome.attempt.refusal is None for outcome in outcomes)
