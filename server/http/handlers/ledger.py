"""The handler that describes the ledger of a key and the limits in force."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from server.http.call import Call
from server.http.headers import NO_STORE
from server.http.limits import BODY_MAX_BYTES, BULK_BODY_MAX_BYTES
from server.http.members import Count, Instant, Uuid
from server.http.models import HOLD_SECONDS_MAX
from server.http.query import Query
from server.http.render import instant
from server.http.reply import Reply
from server.ledger import summary
from server.ledger.limits import BULK_ITEMS_MAX, METADATA_KEYS_MAX, PAGE_MAX
from server.ledger.summary import Summaries

# The limits that are the same for every key, by member of `LedgerLimitsBody`.
_LIMITS: Final = {
    "body_bytes": BODY_MAX_BYTES,
    "bulk_body_bytes": BULK_BODY_MAX_BYTES,
    "bulk_items": BULK_ITEMS_MAX,
    "page_rows": PAGE_MAX,
    "metadata_entries": METADATA_KEYS_MAX,
    "hold_seconds": HOLD_SECONDS_MAX,
}

_encode: Final = msgspec.json.Encoder().encode


class LedgerRowsBody(msgspec.Struct, gc=False):
    """A number of rows."""

    count: Count
    exact: Annotated[
        bool,
        Meta(
            description=f"False from {summary.COUNTED_MAX} on. `count` is then that of the auditor's last round, if "
            "that is larger."
        ),
    ]


class LedgerCountsBody(msgspec.Struct, gc=False):
    """The numbers of rows in the ledger."""

    accounts: LedgerRowsBody
    transfers: Annotated[
        LedgerRowsBody, Meta(description="Attempts that an idempotency key is bound to, including refused ones.")
    ]
    events: Annotated[Count, Meta(description="Newest position of the feed.")]


class LedgerEndBody(msgspec.Struct, gc=False):
    """The first or the last of the posted transfers."""

    id: Uuid
    created_at: Instant


class LedgerRateBody(msgspec.Struct, gc=False):
    """A limit of requests."""

    name: Annotated[
        str, Meta(description="`default` is the limit of the key, `ledger` that of all keys of the ledger.")
    ]
    quota: Annotated[Count, Meta(description="Tokens that are added in each window.")]
    window_seconds: Count
    burst: Annotated[Count, Meta(description="Most tokens that the limit can hold.")]


class LedgerLimitsBody(msgspec.Struct, gc=False):
    """The limits in force."""

    rates: list[LedgerRateBody]
    concurrency: Annotated[Count, Meta(description="Most requests of the key that may run at once in one worker.")]
    body_bytes: Count
    bulk_body_bytes: Count
    bulk_items: Count
    page_rows: Count
    metadata_entries: Count
    hold_seconds: Count


class LedgerBody(msgspec.Struct, gc=False):
    """A ledger. It has no oldest and newest transfer before the first is posted."""

    name: str
    created_at: Instant
    counts: LedgerCountsBody
    oldest_transfer: LedgerEndBody | None
    newest_transfer: LedgerEndBody | None
    limits: LedgerLimitsBody


class LedgerHandlers:
    """
    The handler of the ledger.

    Args:
        summaries: Reads the summary of a ledger.
    """

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    async def get_ledger(self, call: Call, _query: Query) -> Reply:
        """Answer with a summary of the ledger, and the limits in force."""
        found = await self._summaries.read(call.ledger_id)
        key = call.key
        rates = [LedgerRateBody(name, *limit) for name, (_, limit) in zip(key.policies, key.limits, strict=True)]
        body = LedgerBody(
            found.name,
            instant(found.created_at),
            LedgerCountsBody(LedgerRowsBody(*found.accounts), LedgerRowsBody(*found.transfers), found.events),
            _end(found.oldest),
            _end(found.newest),
            LedgerLimitsBody(rates, key.concurrency, **_LIMITS),
        )
        return Reply(200, _encode(body), headers=NO_STORE)


def _end(end: summary.End | None) -> LedgerEndBody | None:
    return None if end is None else LedgerEndBody(str(end.id), instant(end.created_at))
