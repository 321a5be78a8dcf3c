"""A batch of several ledgers is one call and one commit, and no ledger affects another."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest

from server.http import render
from server.ledger import posting
from server.ledger.posting import PostingLane
from server.ledger.row_locks import RowLocks
from server.ledger.sending import BatchSender
from server.ledger.transfers import Bound, Reused, TransferRequest
from server.ledger.unit import Unit
from server.store.cache import Cache
from server.store.cache_counters import CacheCounters
from server.store.coalescer import QueueFullError
from server.store.errors import RowLockedError, StoreUnavailableError
from server.store.keyspace import Keyspace
from server.store.postgres import Database
from server.store.redis import Redis
from server.store.redis_cluster import connect
from server.telemetry.failpoints import Failpoints
from server.telemetry.tallies import Tallies
from tests.faults.test_posting_lane import posted, transfer
from tests.support.books import check_books
from tests.support.postgres import administer
from tests.support.service import NO_REDIS
from tests.support.waiting import WAIT_SECONDS

LEDGERS = 8
# "world" has no floor and no ceiling, and alice has nothing, so that money for her comes from "world".
OPENED = """
    INSERT INTO tallystick.accounts (ledger_id, id, currency, floor, created_at)
    SELECT id, account, 'EUR', CASE account WHEN 'world' THEN NULL ELSE 0 END, now()
    FROM tallystick.ledgers, unnest(ARRAY['world', 'alice', 'bob']) AS account
"""


class Sending(NamedTuple):
    """A batch that was sent: its ledgers, those that were allowed to wait, and whether the wait timed out."""

    ledgers: set[int]
    waits: set[int]
    in_vain: bool


class Ledgers(NamedTuple):
    """Ledgers with the same accounts, a lane, and the batches that it has sent."""

    database_url: str
    ids: list[int]
    lane: PostingLane
    rows: RowLocks
    sent: list[Sending]

    async def post(self, requests: Sequence[tuple[int, TransferRequest]]) -> list[Any]:
        """Post requests, each with its ledger, at the same instant, so that they share a batch."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await asyncio.gather(*(self.lane.post(*request) for request in requests), return_exceptions=True)

    async def bound(self, condition: str = "true") -> list[tuple[int, str]]:
        """Return the ledgers and keys of all transfers that meet a condition."""
        rows = await administer(
            self.database_url,
            f"SELECT ledger_id, idempotency_key FROM tallystick.transfers WHERE {condition} ORDER BY 1, 2",
        )
        return [(row[0], row[1]) for row in rows]

    @asynccontextmanager
    async def held(self, ledger_id: int, account: str) -> AsyncIterator[None]:
        """Lock the row of an account of one ledger in another transaction."""
        connection = await asyncpg.connect(self.database_url)
        try:
            async with connection.transaction():
                await connection.execute(
                    "SELECT FROM tallystick.accounts WHERE ledger_id = $1 AND id = $2 FOR UPDATE", ledger_id, account
                )
                yield
        finally:
            await connection.close()


@asynccontextmanager
async def lane_of(database_url: str, redis: Redis, keyspace: Keyspace) -> AsyncIterator[Ledgers]:
    """Make ledgers and a lane for them."""
    await administer(
        database_url, f"INSERT INTO tallystick.ledgers (name) SELECT 'many-' || n FROM generate_series(1, {LEDGERS}) n"
    )
    await administer(database_url, OPENED)
    ledgers = await administer(database_url, "SELECT id FROM tallystick.ledgers ORDER BY id")
    async with Database(database_url, posting_connections=4, reading_connections=1) as database:
        await keyspace.learn(database)
        cache = Cache(redis, keyspace, CacheCounters(), 300)
        rows = RowLocks(database)
        lane = PostingLane(database, cache, render.answer, rows, failpoints=Failpoints(), tallies=Tallies())
        yield Ledgers(database_url, [row["id"] for row in ledgers], lane, rows, [])
        await lane.drain()
        await rows.close()
        await cache.close()


@pytest.fixture
async def ledgers(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledgers]:
    """Ledgers with a lane whose batches are recorded; Redis is down."""
    send = BatchSender.send

    async with lane_of(database_url, connect(NO_REDIS), Keyspace()) as made:

        async def watched(
            sender: BatchSender, units: Sequence[Unit], *, waits: Collection[int] = (), **by: int
        ) -> None:
            in_vain = False
            try:
                await send(sender, units, waits=waits, **by)
            except RowLockedError:
                in_vain = True
                raise
            finally:
                made.sent.append(Sending({unit.ledger_id for unit in units}, set(waits), in_vain))

        monkeypatch.setattr(BatchSender, "send", watched)
        yield made
    await check_books(database_url)


async def test_one_batch_and_one_invalidation(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transfers of several ledgers at one instant make one call and, before any answer, one command to Redis."""
    redis = connect(redis_url)
    invalidate, invalidated = redis.invalidate, []

    async def counted(versions: dict[bytes, int], replays: dict[bytes, bytes], **by: Any) -> None:
        invalidated.append((len(versions), len(replays)))
        await invalidate(versions, replays, **by)

    monkeypatch.setattr(redis, "invalidate", counted)
    async with lane_of(database_url, redis, Keyspace()) as ledgers:
        outcomes = await ledgers.post([(ledger_id, transfer("same")) for ledger_id in ledgers.ids])
        assert all(map(posted, outcomes))
        assert invalidated == [(2 * LEDGERS, LEDGERS)]
        assert await ledgers.bound() == [(ledger_id, "same") for ledger_id in ledgers.ids]
        rows = await administer(database_url, "SELECT DISTINCT xmin::text FROM tallystick.transfers")
        assert len(rows) == 1
    await redis.close()
    await check_books(database_url)


async def test_known_and_new_keys_of_several_ledgers(ledgers: Ledgers) -> None:
    """
    The same keys and accounts are separate in each ledger: in a batch that mixes known and new keys, different ones in
    each ledger, each request gets the answer of its own ledger.
    """
    first = [
        (ledger_id, transfer(f"key-{n}", amount=n + 1))
        for ledger_id in ledgers.ids
        for n in range(ledger_id % 2, 10, 2)
    ]
    originals = {
        (ledger_id, r.key): outcome for (ledger_id, r), outcome in zip(first, await ledgers.post(first), strict=True)
    }
    ledgers.sent.clear()
    changed = ledgers.ids[3]
    again = [
        (ledger_id, transfer(f"key-{n}", amount=n + 1 + (ledger_id == changed)))
        for ledger_id in ledgers.ids
        for n in range(10)
    ]
    outcomes = await ledgers.post(again)
    assert len(ledgers.sent) == 1
    for (ledger_id, request), outcome in zip(again, outcomes, strict=True):
        original = originals.get((ledger_id, request.key))
        if original is None:
            assert posted(outcome)
            assert not outcome.replayed
        elif ledger_id == changed:
            assert isinstance(outcome, Reused)
            assert outcome.attempt == original.attempt
        else:
            assert isinstance(outcome, Bound)
            assert (outcome.attempt, outcome.replayed) == (original.attempt, True)
    assert len(await ledgers.bound()) == 10 * LEDGERS


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param({"metadata": "{"}, id="the server refuses the text"),
        pytest.param({"description": "\ud800"}, id="the driver refuses a character"),
        pytest.param({"amount": 2**63}, id="the driver refuses a number"),
        pytest.param({"amount": 0}, id="a constraint refuses the row"),
    ],
)
async def test_what_is_wrong_in_one_ledger_fails_there(ledgers: Ledgers, poison: dict[str, Any]) -> None:
    """
    A request that makes its batch fail is isolated, first by ledger; every other request is posted once, in all
    ledgers.
    """
    wrong = (ledgers.ids[4], "key-1")
    requests = [
        (ledger_id, transfer(key, **poison) if (ledger_id, key) == wrong else transfer(key))
        for ledger_id in ledgers.ids
        for key in ("key-0", "key-1", "key-2", "key-3")
    ]
    outcomes = await ledgers.post(requests)
    assert [(ledger_id, r.key) for (ledger_id, r), o in zip(requests, outcomes, strict=True) if not posted(o)] == [
        wrong
    ]
    others = [(ledger_id, request.key) for ledger_id, request in requests if (ledger_id, request.key) != wrong]
    assert await ledgers.bound() == others
    # Eight ledgers are halved three times, and four requests twice.
    assert len(ledgers.sent) == 1 + 2 * 5
    assert [sending.ledgers for sending in ledgers.sent].count({wrong[0]}) == 1 + 2 * 2


async def test_refusals_stay_in_their_ledger(ledgers: Ledgers) -> None:
    """If one ledger lacks money and another has an account at its ceiling, the transfers of the others are posted."""
    poor, rich = ledgers.ids[2], ledgers.ids[5]
    await administer(
        ledgers.database_url,
        "UPDATE tallystick.accounts SET ceiling = 0 WHERE id = 'alice' AND ledger_id = $1",
        rich,
    )
    requests = [
        (ledger_id, transfer("key", **({"source": "alice", "destination": "bob"} if ledger_id == poor else {})))
        for ledger_id in ledgers.ids
    ]
    outcomes = await ledgers.post(requests)
    refusals = {ledger_id: o.attempt.refusal for (ledger_id, _), o in zip(requests, outcomes, strict=True)}
    assert refusals == {**dict.fromkeys(ledgers.ids), poor: "insufficient_funds", rich: "ceiling_exceeded"}
    assert len(ledgers.sent) == 1


async def test_a_clock_moves_only_its_own_ledger(ledgers: Ledgers) -> None:
    """An account with an entry in the future moves the clock of its own ledger and of no other."""
    ahead = ledgers.ids[3]
    future = datetime.now(UTC) + timedelta(hours=1)
    await administer(
        ledgers.database_url, "UPDATE tallystick.accounts SET last_entry_at = $1 WHERE ledger_id = $2", future, ahead
    )
    outcomes = await ledgers.post([(ledger_id, transfer("key")) for ledger_id in ledgers.ids])
    instants = {ledger_id: o.attempt.created_at for ledger_id, o in zip(ledgers.ids, outcomes, strict=True)}
    assert instants.pop(ahead) == future + timedelta(microseconds=1)
    assert len(set(instants.values())) == 1
    assert instants[ledgers.ids[0]] < future - timedelta(minutes=30)


async def test_sets_and_bulks_stay_whole_beside_others(ledgers: Ledgers) -> None:
    """A failing set is undone as a whole, other sets are posted, and bulks of other ledgers are not affected."""
    poor, *others = ledgers.ids

    def requests(ledger_id: int) -> list[TransferRequest]:
        last = {"source": "bob", "destination": "alice"} if ledger_id == poor else {}
        return [*(transfer(f"key-{n}") for n in range(600)), transfer("last", **last)]

    async with asyncio.timeout(60):
        whole, *parts = await asyncio.gather(
            ledgers.lane.post_many(poor, requests(poor), atomic=True),
            *(
                ledgers.lane.post_many(ledger_id, requests(ledger_id), atomic=n == 0)
                for n, ledger_id in enumerate(others)
            ),
        )
    assert [o.attempt.refusal for o in whole if isinstance(o, Bound)] == ["linked_failed"] * 600 + [
        "insufficient_funds"
    ]
    assert all(posted(outcome) for outcomes in parts for outcome in outcomes)
    assert await ledgers.bound(f"refusal IS NULL AND ledger_id = {poor}") == []
    assert len(await ledgers.bound("refusal IS NULL")) == 601 * len(others)


@pytest.mark.parametrize("contended", [False, True])
async def test_a_locked_row_of_one_ledger(ledgers: Ledgers, *, contended: bool) -> None:
    """
    While a row of one ledger is locked, the other ledgers are posted at once. A batch of several ledgers waits for the
    row at most once, and only if that ledger had contended rows shortly before.
    """
    locked, *others = ledgers.ids
    if contended:
        ledgers.rows.note_contended(locked)
    async with ledgers.held(locked, "alice"):
        waiting: list[asyncio.Future[Any]] = []
        for number in range(20):
            requests = [(ledger_id, transfer(f"beside-{number}")) for ledger_id in others]
            requests.append((locked, transfer(f"beside-{number}", destination="bob")))
            waiting.append(asyncio.ensure_future(ledgers.lane.post(locked, transfer(f"locked-{number}"))))
            assert all(map(posted, await ledgers.post(requests)))
        assert not any(future.done() for future in waiting)
        in_vain = [sending for sending in ledgers.sent if sending.in_vain]
        assert len([sending for sending in in_vain if len(sending.ledgers) > 1]) == contended
        # After that the row is known to be locked, and no batch waits for it in the database.
        assert len(in_vain) <= 1 + contended
        assert await ledgers.bound("idempotency_key LIKE 'locked-%'") == []
    async with asyncio.timeout(WAIT_SECONDS):
        assert all(map(posted, await asyncio.gather(*waiting)))


async def test_contention_within_a_ledger_waits_in_the_database(ledgers: Ledgers) -> None:
    """
    Batches that contend for an account of a busy ledger wait for one another in the database, and none is refused.
    """
    for number in range(10):
        requests = [(ledger_id, transfer(f"{number}-{n}")) for ledger_id in ledgers.ids for n in range(100)]
        assert all(map(posted, await ledgers.post(requests)))
    assert any(len(sending.ledgers) > 1 and sending.waits for sending in ledgers.sent)
    assert not any(sending.in_vain for sending in ledgers.sent)


def fill(lane: PostingLane, ledger_id: int, count: int, size: int) -> "list[asyncio.Future[Any]]":
    """Queue bulks of a ledger in the lane."""
    return [
        asyncio.ensure_future(
            lane.post_many(ledger_id, [transfer(f"bulk-{number}-{n}") for n in range(size)], atomic=False)
        )
        for number in range(count)
    ]


async def test_the_queue_is_as_long_as_can_be_posted_in_time(ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The queue is bounded. A ledger that has filled it with bulks leaves room for the others, and its own further
    requests are refused.
    """
    monkeypatch.setattr(posting, "QUEUE_MAX", 40)
    crowded, other = ledgers.ids[:2]
    async with ledgers.held(crowded, "alice"), ledgers.held(other, "bob"):
        bulks = fill(ledgers.lane, crowded, 5, 10)
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            ledgers.lane.check_room(crowded, 1)
        ledgers.lane.check_room(other, 20)
        with pytest.raises(QueueFullError):
            ledgers.lane.check_room(other, 21)
        refused = [bulk for bulk in bulks if bulk.done()]
        assert len(refused) == 1
        with pytest.raises(QueueFullError):
            await refused[0]
        assert posted(await ledgers.lane.post(other, transfer("single")))
    async with asyncio.timeout(WAIT_SECONDS):
        outcomes = await asyncio.gather(*(bulk for bulk in bulks if bulk not in refused))
    assert all(posted(outcome) for bulk in outcomes for outcome in bulk)
    assert len(await ledgers.bound(f"ledger_id = {crowded}")) == 40


async def test_many_bulks_of_one_ledger_are_all_posted(ledgers: Ledgers) -> None:
    """
    Sixty-four callers, each with a bulk as large as a batch, are all answered, and none is refused for a full queue.
    """
    bulks = fill(ledgers.lane, ledgers.ids[0], 64, posting.BATCH_MAX)
    async with asyncio.timeout(60):
        outcomes: list[Any] = await asyncio.gather(*bulks, return_exceptions=True)
    assert not any(isinstance(bulk, QueueFullError) for bulk in outcomes)
    # On a slow machine, some may exceed the longest wait and are then refused unsent.
    assert all(isinstance(bulk, StoreUnavailableError) or all(map(posted, bulk)) for bulk in outcomes)
