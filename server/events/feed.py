"""The feed: the events of a ledger in one order, with positions 1, 2, 3, ... without a gap."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Final, Literal, NamedTuple

import asyncpg
import msgspec
from msgspec import Meta

from server.ledger.accounts import Account
from server.ledger.invalidation import InvalidatingDatabase, Versions, transfer_shown
from server.ledger.narrowed import seen
from server.ledger.prefixes import Prefixes
from server.ledger.transfers import Attempt, Progress
from server.store.cache import Cache
from server.store.postgres import Database

# All types of events, and the bits that stand for them in the database: those of the function `event_type`.
TYPES: Final[Mapping[str, int]] = {
    "transfer.posted": 1,
    "transfer.refused": 2,
    "hold.created": 4,
    "hold.captured": 8,
    "hold.voided": 16,
    "hold.expired": 32,
    "transfer.reversed": 64,
    "account.created": 128,
    "account.updated": 256,
    "account.closed": 512,
}
_ALL: Final = sum(TYPES.values())
# The type of a posted transfer's event, by the transfer's kind.
_OF_KIND: Final[Mapping[str, str]] = {
    "transfer": "transfer.posted",
    "hold": "hold.created",
    "capture": "hold.captured",
    "void": "hold.voided",
    "expiry": "hold.expired",
    "reversal": "transfer.reversed",
}
# Events that one look examines in each index if only some are asked for: some 20 ms of a reading connection.
EXAMINED_MAX: Final = 5_000
# Entries that the first look at an account examines besides those it wants, since some may be before the position.
ACCOUNT_MARGIN: Final = 60
# Names of ledgers that are remembered; in one run of the database they never change.
NAMES_MAX: Final = 10_000

# The progress of a transfer that was just posted.
_NOTHING_YET: Final = Progress(0, 0, 0, None)


class Event(NamedTuple):
    """One thing that happened: a transfer that was posted or refused, or a change of an account."""

    position: int
    # One of `TYPES`.
    type: str
    # The id of the transfer or of the account.
    subject: str
    # The accounts that it names and the reader may see: of a transfer its source and its destination. A refusal may
    # have none.
    accounts: tuple[str, ...]
    at: datetime
    # JSON: the transfer or account as a read showed it at that time.
    data: bytes

    @property
    def account(self) -> str:
        """The account that the event is about: of a transfer its source; empty if it has none."""
        return self.accounts[0] if self.accounts else ""


class FeedPage(NamedTuple):
    """Events in order."""

    events: list[Event]
    # The position to read on from. It also moves on when a filter has left nothing.
    next_after: int
    # The newest position of the ledger.
    head: int


class _AccountThen(msgspec.Struct):
    """An account as the feed keeps it: the members of `Account` in its order."""

    id: str
    currency: str
    balance: int
    held_in: int
    held_out: int
    floor: int | None
    ceiling: int | None
    version: int
    closed: bool
    metadata: msgspec.Raw
    created_at: datetime


class _Change(msgspec.Struct):
    """A change of an account as the feed keeps it."""

    type: str
    account: _AccountThen


class Envelope(msgspec.Struct):
    """An event as CloudEvents 1.0 has it in JSON, with its position in the feed of its ledger."""

    specversion: Literal["1.0"]
    id: Annotated[
        str,
        Meta(
            description="The name of the ledger, a slash and the position: the same in every delivery.",
            examples=["main/17"],
        ),
    ]
    source: Annotated[str, Meta(examples=["/ledgers/main"], extra_json_schema={"format": "uri-reference"})]
    type: Annotated[str, Meta(examples=["tallystick.transfer.posted.v1"])]
    subject: Annotated[str, Meta(description="The id of the transfer or of the account.")]
    time: Annotated[str, Meta(examples=["2026-01-31T12:00:00.000000Z"], extra_json_schema={"format": "date-time"})]
    datacontenttype: Literal["application/json"]
    position: Annotated[int, Meta(ge=1, examples=[17])]
    data: msgspec.Raw


_decode_change = msgspec.json.Decoder(_Change).decode
_encode = msgspec.json.Encoder().encode


class Feed:
    """
    Reads the feed. Every method may raise QueueFullError, StoreUnavailableError or DatabaseError.

    Args:
        database: Holds the feed.

        cache: Receives the versions that are shown. Its confirmation identifies the database's run.

        transfer: Renders a transfer with the progress that it had when it was posted.

        account: Renders an account.

        examined_max: Maximum number of events that one look examines.
    """

    def __init__(
        self,
        database: Database,
        cache: Cache,
        transfer: Callable[[Attempt, Progress], bytes],
        account: Callable[[Account], bytes],
        examined_max: int = EXAMINED_MAX,
    ) -> None:
        self._database = InvalidatingDatabase(database, cache)
        self._read = database.read
        self._transfer = transfer
        self._account = account
        self._examined_max = examined_max
        self._cache = cache
        # Names of ledgers by number, all read while this confirmation of the run was valid.
        self._names: dict[int, str] = {}
        self._confirmation = cache.confirmation

    async def page(
        self,
        ledger_id: int,
        after: int,
        limit: int,
        *,
        types: Collection[str] = (),
        account: str | None = None,
        accounts: Prefixes | None = None,
    ) -> FeedPage:
        """
        Return up to *limit* events after the position *after*.

        More events may follow a page that is not full, as long as its `next_after` is not its `head`: each look
        examines a bounded number of rows.

        Args:
            types: Of `TYPES`; none means all.

            account: Return only events about this account: its changes, and transfers that name it.

            accounts: Return only what a caller who sees these accounts may see, and of transfers nothing about others.
        """
        bits = sum(TYPES[name] for name in types) or _ALL
        read = partial(self._look, ledger_id, accounts)
        if account is not None:
            if accounts is not None and not accounts.has(account):
                # Treated as an account that does not exist.
                account = ""
            first = limit + ACCOUNT_MARGIN if bits == _ALL else self._examined_max
            for examined in (first, self._examined_max):
                page = await read("event_page_of_account", after, examined, bits, limit, account)
                if page.next_after > after or page.head <= after:
                    return page
            # The examined entries may all be before the position: examine the events of all accounts instead.
            page = await read("event_page", after, self._examined_max, bits, self._examined_max, None)
            events = [event for event in page.events if account in event.accounts]
            if len(events) <= limit:
                return page._replace(events=events)
            return page._replace(events=events[:limit], next_after=events[limit - 1].position)
        if accounts is not None:
            return await read("event_page", after, self._examined_max, bits, limit, list(accounts.texts))
        examined = limit if bits == _ALL else self._examined_max
        return await read("event_page", after, examined, bits, limit, None)

    async def _look(  # noqa: PLR0917 -- the arguments of both statements, in their order
        self,
        ledger_id: int,
        accounts: Prefixes | None,
        statement: str,
        after: int,
        examined: int,
        bits: int,
        limit: int,
        chosen: str | list[str] | None,
    ) -> FeedPage:
        """Return what a statement finds, as a caller who sees these accounts may see it."""
        rows = await self._database.read(_shown, statement, ledger_id, after, examined, bits, limit, chosen)
        head = rows[0]["head"] or 0
        found = [row for row in rows if row["position"] is not None]
        events = [event for event in (self._event(row, accounts) for row in found) if event is not None]
        if len(found) == limit:
            return FeedPage(events, found[-1]["position"], head)
        end = rows[0]["examined"]
        return FeedPage(events, max(after, head) if end is None else end, head)

    async def heads(self, ledger_ids: Sequence[int]) -> dict[int, int]:
        """Return the newest position of each of these ledgers, 0 if nothing has happened in it."""
        rows = await self._read("feed_positions", ledger_ids)
        return {**dict.fromkeys(ledger_ids, 0), **{row["ledger_id"]: row["position"] for row in rows}}

    async def ledger_name(self, ledger_id: int) -> str:
        """Return the name of a ledger."""
        confirmation = self._cache.confirmation
        if confirmation is None or confirmation is not self._confirmation or len(self._names) >= NAMES_MAX:
            # In a restored copy, the number may be another ledger's.
            self._names.clear()
            self._confirmation = confirmation
        name = self._names.get(ledger_id)
        if name is None:
            name = (await self._read("ledger_name", ledger_id))[0]["name"]
            if confirmation is not None and confirmation is self._cache.confirmation is self._confirmation:
                self._names[ledger_id] = name
        return name

    def _event(self, row: asyncpg.Record, accounts: Prefixes | None) -> Event | None:
        _, _, position, posted_at, account, change, *columns = row.values()
        if change is not None:
            if accounts is not None and not accounts.has(account):
                return None
            changed = _decode_change(change)
            data = self._account(_account(changed.account))
            return Event(position, changed.type, account, (account,), posted_at, data)
        attempt = seen(Attempt(*columns), accounts)
        if attempt is None:
            return None
        progress = _NOTHING_YET
        if attempt.refusal is not None:
            name = "transfer.refused"
        else:
            name = _OF_KIND[attempt.kind]
            if attempt.kind == "hold":
                assert attempt.amount is not None, "a hold that was posted has an amount"
                progress = Progress(0, attempt.amount, 0, "open")
        sides = tuple(side for side in (attempt.source, attempt.destination) if side is not None)
        return Event(position, name, str(attempt.id), sides, posted_at, self._transfer(attempt, progress))


def _account(then: _AccountThen) -> Account:
    *others, metadata, created_at = msgspec.structs.astuple(then)
    return Account._make((*others, bytes(metadata).decode(), created_at, None))


def _shown(row: asyncpg.Record) -> Versions:
    """Return the account versions that a row shows; a change of an account shows the version that it made."""
    if row["position"] is None:
        return ()
    if row["change"] is not None:
        return ((row["account"], _decode_change(row["change"]).account.version),)
    return transfer_shown(row)


def envelope(event: Event, ledger: str) -> bytes:
    """
    Return an event as CloudEvents 1.0 in its JSON form.

    Args:
        ledger: Name of the ledger.
    """
    return _encode(
        Envelope(
            "1.0",
            f"{ledger}/{event.position}",
            f"/ledgers/{ledger}",
            f"tallystick.{event.type}.v1",
            event.subject,
            f"{event.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
            "application/json",
            event.position,
            msgspec.Raw(event.data),
        )
    )
