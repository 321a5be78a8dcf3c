"""The handler that tells how far the books have been checked, and what is wrong with them."""

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
    The head of the chain of events: the link holds all that happened up to its position.

    Who keeps it elsewhere can tell whether anything before it was written anew.
    """

    position: Position
    link: Annotated[
        str,
        Meta(
            description="SHA-256, in hexadecimal; empty where nothing has happened.",
            extra_json_schema={"pattern": "^([0-9a-f]{64})?$"},
        ),
    ]
    at: Annotated[Instant, Meta(description="The latest instant of the events up to it.")] | None


class FindingBody(msgspec.Struct, gc=False):
    """Errors of one kind: their number, and a sentence on each of the first ones."""

    kind: str
    total: Count
    details: tuple[str, ...]


class RoundBody(msgspec.Struct, gc=False):
    """A way through all of the ledger; `finished_at` is null while it is under way."""

    started_at: Instant
    finished_at: Instant | None
    rows: Count
    findings: list[FindingBody]


class IntegrityBody(msgspec.Struct, gc=False):
    """What the auditor has to say of the ledger; a round is null where there is none yet, or none is under way."""

    head: HeadBody
    last_round: RoundBody | None
    current_round: RoundBody | None


class IntegrityHandlers:
    """
    The handler of the auditor's rounds.

    Args:
        rounds: Keeps them.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    async def get_integrity(self, call: Call, _query: Query) -> Reply:
        """Tell the head of the chain, and what the last round and the one under way have found."""
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
