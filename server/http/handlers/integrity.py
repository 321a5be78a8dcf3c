"""The handler that reports how far the auditor has checked the ledger, and the errors it has found."""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from server.http.call import Call
from server.http.headers import NO_STORE
from server.http.members import Count, Instant, Position
from server.http.query import Query
from server.http.render import instant
from server.http.reply import Reply
from server.ledger.audit_rounds import Round, Rounds

_encode: Final = msgspec.json.Encoder().encode


class HeadBody(msgspec.Struct, gc=False):
    """
    The head of the chain of events: the link is a hash over all events up to its position.

    A copy kept elsewhere shows later whether any event before it was rewritten.
    """

    position: Position
    link: Annotated[
        str,
        Meta(
            description="SHA-256 in hexadecimal; empty if there are no events.",
            extra_json_schema={"pattern": "^([0-9a-f]{64})?$"},
        ),
    ]
    at: Annotated[Instant, Meta(description="Latest instant of the events up to the position.")] | None


class FindingBody(msgspec.Struct, gc=False):
    """Errors of one kind: their number, and a sentence on each of the first ones."""

    kind: str
    total: Count
    details: tuple[str, ...]


class RoundBody(msgspec.Struct, gc=False):
    """A round: one pass over the whole ledger; `finished_at` is null while it is under way."""

    started_at: Instant
    finished_at: Instant | None
    rows: Count
    findings: list[FindingBody]


class IntegrityBody(msgspec.Struct, gc=False):
    """The auditor's report on the ledger. A round is null if none has finished, or none is under way."""

    head: HeadBody
    last_round: RoundBody | None
    current_round: RoundBody | None


class IntegrityHandlers:
    """
    The handler of the auditor's rounds.

    Args:
        rounds: Stores the rounds.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    async def get_integrity(self, call: Call, _query: Query) -> Reply:
        """Answer with the head of the chain, and the findings of the last round and of the one under way."""
        found = await self._rounds.read(call.ledger_id)
        head = HeadBody(found.position, found.link.hex(), _instant(found.at))
        body = IntegrityBody(head, _round(found.last), _round(found.running))
        return Reply(200, _encode(body), headers=NO_STORE)


def _round(found: Round | None) -> RoundBody | None:
    if found is None:
        return None
    findings = [FindingBody(*finding) for finding in found.findings]
    return RoundBody(instant(found.started_at), _instant(found.finished_at), found.rows, findings)


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)
