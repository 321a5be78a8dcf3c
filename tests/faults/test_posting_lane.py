"""When a batch fails half-way, the posting lane tells each caller the true outcome."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import pytest

from server.http import render
from server.ledger import posting as module
from server.ledger import sending
from server.ledger.ids import new_transfer_id
from server.ledger.posting import PostingLane
from server.ledger.row_locks import RowLocks
from server.ledger.transfers import Bound, Outcome, TransferRequest, Unbound
from server.store import postgres
from server.store.cache import Cache
from server.store.cache_counters import CacheCounters
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreUnavailableError
from server.store.keyspace import Keyspace
from server.store.postgres import Database
from server.store.redis_cluster import connect
from server.store.sql import query
from server.telemetry.failpoints import FailpointError, Failpoints
from server.telemetry.tallies import Tallies
from tests.support.books import check_books
from tests.support.client import Client
from tests.support.postgres import administer
from tests.support.service import NO_REDIS, in_process
from tests.support.waiting import WAIT_SECONDS

LEDGER = "lane"


class Ground(NamedTuple):
    """A database with the accounts `world` (without a floor) and `alice`, and a lane on it."""

    database: Database
    database_url: str
    ledger_id: int

    async def rows(self) -> dict[str, str | None]:
        """Return every bound key with its refusal, or None."""
        rows = await administer(self.database_url, "SELECT idempotency_key, refusal FROM tallystick.transfers")
        return {row["idempotency_key"]: row["refusal"] for row in rows}


def transfer(key: str, **fields: Any) -> TransferRequest:
    """Return a transfer of 1 from `world` to `alice`, changed by *fields*."""
    plain = TransferRequest(
        key, key.encode().ljust(32), new_transfer_id(), "world", "alice", 1, "EUR",
        None, None, "{}", None, "request", None, None, None,
    )  # fmt: skip
    return plain._replace(**fields)


def posted(outcome: Outcome | BaseException) -> bool:
    """Whether an outcome says that the money was moved."""
    return isinstance(outcome, Bound) and outcome.attempt.refusal is None


@pytest.fixture
async def ground(database_url: str) -> AsyncIterator[Ground]:
    """A database with two accounts, and the connections of a worker."""
    async with in_process(database_url) as service:
        client: Client = await service.client(LEDGER)
        await client.fund("alice", 0)
    [ledger] = await administer(database_url, "SELECT id FROM tallystick.ledgers WHERE name = $1", LEDGER)
    async with Database(database_url, posting_connections=2, reading_connections=1) as database:
        yield Ground(database, database_url, ledger["id"])


class Fails(Failpoints):
    """Raises once at a failpoint, after a delay."""

    def __init__(self, name: str, seconds: float = 0.0) -> None:
        super().__init__(f"{name}=raise")
        self.seconds = seconds

    async def reach(self, name: str) -> None:
        """Wait, then raise, the first time that *name* is the chosen one."""
        if name in self._points:
            await asyncio.sleep(self.seconds)
        await super().reach(name)


def offline_lane(database: Database, failpoints: Failpoints) -> PostingLane:
    """Return a lane whose Redis is down."""
    cache = Cache(connect(NO_REDIS), Keyspace(), CacheCounters(), 300)
    return PostingLane(database, cache, render.answer, RowLocks(database), failpoints=failpoints, tallies=Tallies())


async def post_all(lane: PostingLane, ground: Ground, requests: Sequence[TransferRequest]) -> list[Any]:
    """Post all requests at the same instant, so that they share a batch."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await asyncio.gather(*(lane.post(ground.ledger_id, r) for r in requests), return_exceptions=True)


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param({"metadata": "{"}, id="the server refuses the text"),
        pytest.param({"reference": "a\x00b"}, id="the server refuses a character"),
        pytest.param({"description": "\ud800"}, id="the driver refuses a character"),
        pytest.param({"amount": 2**63}, id="the driver refuses a number"),
        pytest.param({"amount": 0}, id="a constraint refuses the row"),
    ],
)
async def test_a_bad_request_fails_alone(ground: Ground, poison: dict[str, Any]) -> None:
    """A request that passes the checks and makes its batch fail is isolated, and the rest of the batch is posted."""
    lane = offline_lane(ground.database, Failpoints())
    requests = [transfer(f"key-{number}") for number in range(40)]
    requests[17] = requests[17]._replace(**poison)
    outcomes = await post_all(lane, ground, requests)
    assert [number for number, outcome in enumerate(outcomes) if not posted(outcome)] == [17]
    assert isinstance(outcomes[17], Exception)
    assert not isinstance(outcomes[17], StoreUnavailableError)
    assert len(await ground.rows()) == 39
    assert lane._pending == {}
    await check_books(ground.database_url)


async def test_what_a_failed_set_reversed_is_reversed_of_itself(ground: Ground) -> None:
    """
    A set that is rolled back leaves no trace: a later reversal of the same transfer in the batch is checked as if the
    set had not run.
    """
    lane = offline_lane(ground.database, Failpoints())
    reversal = {"source": None, "destination": None, "currency": None, "kind": "reversal", "parent_key": "moved"}
    failing = [
        transfer("early", amount=1, **reversal),
        transfer("refused", source="alice", destination="world", amount=99),
    ]
    later = [transfer("held", kind="hold", expires_in=60, amount=1_000), transfer("late", amount=1_000, **reversal)]
    async with asyncio.timeout(WAIT_SECONDS):
        _, first, second = await asyncio.gather(
            lane.post(ground.ledger_id, transfer("moved", amount=10)),
            lane.post_many(ground.ledger_id, failing, atomic=True),
            lane.post_many(ground.ledger_id, later, atomic=False),
        )
    assert [isinstance(o, Bound) and o.attempt.refusal for o in first] == ["linked_failed", "insufficient_funds"]
    assert [isinstance(o, Bound) and o.attempt.refusal for o in second] == [None, "reversal_exceeds_transfer"]
    await check_books(ground.database_url)


async def test_keys_are_looked_up_once_one_was_known(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A known key makes its batch run again, and for some time afterwards keys are looked up before they are inserted.
    """
    run, looked_up = Database.run, []

    async def watched(database: Database, connection: Any, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "transfer_post_many":
            looked_up.append(arguments[-1])
        return await run(database, connection, name, *arguments, **options)

    async def post(*keys: str) -> list[bool]:
        """Post transfers, and return which keys were known."""
        outcomes = await post_all(lane, ground, [transfer(key) for key in keys])
        assert all(map(posted, outcomes))
        return [outcome.replayed for outcome in outcomes]

    monkeypatch.setattr(Database, "run", watched)
    lane = offline_lane(ground.database, Failpoints())
    assert await post("a", "b") == [False, False]
    assert looked_up == [False]
    assert await post("a", "c") == [True, False]
    assert looked_up == [False, False, True]
    monkeypatch.setattr(sending, "KNOWN_KEYS_SECONDS", 0.0)
    assert await post("d", "b") == [False, True]
    assert await post("e") == [False]
    assert looked_up == [False, False, True, True, False]
    assert await ground.rows() == dict.fromkeys("abcde")
    await check_books(ground.database_url)


async def test_a_failure_after_the_commit_is_not_told_as_nothing_done(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that fails late, after its commit, is not refused as one that has waited too long."""
    monkeypatch.setattr(module, "WAIT_MAX_SECONDS", 0.2)
    lane = offline_lane(ground.database, Fails("posting.committed", seconds=0.3))
    outcomes = await post_all(lane, ground, [transfer("a"), transfer("b")])
    assert [posted(outcome) for outcome in outcomes] == [True, True]
    assert await ground.rows() == {"a": None, "b": None}


async def test_a_request_that_waited_too_long_is_not_sent(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that cannot be sent in time is refused unsent, and its key is free; later requests are served."""
    monkeypatch.setattr(module, "WAIT_MAX_SECONDS", 0.2)
    monkeypatch.setattr(module, "IN_FLIGHT_MAX", 1)
    lane = offline_lane(ground.database, Fails("posting.before_batch", seconds=0.4))
    first = asyncio.ensure_future(lane.post(ground.ledger_id, transfer("first")))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(lane.post(ground.ledger_id, transfer("second")))
    async with asyncio.timeout(WAIT_SECONDS):
        heard = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in heard] == [FailpointError, StoreUnavailableError]
        assert await ground.rows() == {}
        assert posted(await lane.post(ground.ledger_id, transfer("second")))


async def test_a_failure_between_commit_and_answer_is_unknown(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a batch commits and known keys then cannot be read, no caller gets `not_applied`."""
    lane = offline_lane(ground.database, Failpoints())
    assert posted(await lane.post(ground.ledger_id, transfer("known")))
    await administer(
        ground.database_url,
        "CREATE FUNCTION tallystick.refuse(bigint[], text[]) RETURNS integer LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE lock_not_available; END $$",
    )
    refuse = "SELECT tallystick.refuse($1, $2)"
    monkeypatch.setattr(postgres, "query", lambda name: refuse if name == "transfer_by_keys" else query(name))
    monkeypatch.setattr(module, "DEADLINE_SECONDS", 2.0)
    outcomes = await post_all(lane, ground, [transfer("known"), transfer("new")])
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError, OutcomeUnknownError]
    assert await ground.rows() == {"known": None, "new": None}
    monkeypatch.undo()
    again = await lane.post(ground.ledger_id, transfer("new"))
    assert isinstance(again, Bound)
    assert again.replayed


async def test_a_bulk_of_which_a_part_was_posted_is_unknown(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the queue is full between two batches of a bulk, the outcome of the bulk is unknown, not `not_applied`."""
    monkeypatch.setattr(module, "BATCH_MAX", 2)
    lane = offline_lane(ground.database, Failpoints())
    submit, parts = lane._shared.submit, 0

    def full_at_the_second(*arguments: Any) -> Any:
        nonlocal parts
        parts += 1
        if parts == 2:
            raise QueueFullError
        return submit(*arguments)

    monkeypatch.setattr(lane._shared, "submit", full_at_the_second)
    requests = [transfer(f"bulk-{number}") for number in range(4)]
    with pytest.raises(OutcomeUnknownError):
        await lane.post_many(ground.ledger_id, requests, atomic=False)
    assert len(await ground.rows()) == 2
    outcomes = await lane.post_many(ground.ledger_id, requests, atomic=False)
    assert all(posted(outcome) for outcome in outcomes)
    assert len(await ground.rows()) == 4


async def test_a_full_queue_binds_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the queue is full, a posting is refused at once and leaves nothing behind, and its key works later."""
    monkeypatch.setattr(module, "QUEUE_MAX", 3)
    monkeypatch.setattr(module, "IN_FLIGHT_MAX", 1)
    lane = offline_lane(ground.database, Failpoints())
    outcomes = await post_all(lane, ground, [transfer(f"key-{number}") for number in range(6)])
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, QueueFullError)]
    assert len(refused) == 3
    assert all(posted(o) for number, o in enumerate(outcomes) if number not in refused)
    assert lane._pending == {}
    for number in refused:
        assert posted(await lane.post(ground.ledger_id, transfer(f"key-{number}")))
    assert len(await ground.rows()) == 6


async def test_callers_who_leave_leave_nothing_behind(ground: Ground) -> None:
    """Cancelled callers neither undo a posting nor block its key, even if they wait for another caller's request."""
    failpoints = Fails("posting.before_batch", seconds=0.05)
    failpoints._points["posting.before_batch"] = ("raise", 10**6)
    lane = offline_lane(ground.database, failpoints)
    callers = [asyncio.ensure_future(lane.post(ground.ledger_id, transfer("same"))) for _ in range(5)]
    other = asyncio.ensure_future(lane.post(ground.ledger_id, transfer("other")))
    await asyncio.sleep(0.01)
    for caller in (*callers[:2], callers[4]):
        caller.cancel()
    async with asyncio.timeout(WAIT_SECONDS):
        assert posted(await other)
        assert posted(await callers[3])
        await lane.drain()
    assert lane._pending == {}
    assert await ground.rows() == {"same": None, "other": None}


async def test_a_set_is_unbound_when_one_of_its_keys_is_taken(ground: Ground) -> None:
    """An atomic set with a key that is already bound does nothing, says so, and leaves its other keys free."""
    lane = offline_lane(ground.database, Failpoints())
    assert posted(await lane.post(ground.ledger_id, transfer("taken")))
    outcomes = await lane.post_many(ground.ledger_id, [transfer("mine"), transfer("taken")], atomic=True)
    assert isinstance(outcomes[0], Unbound)
    assert await ground.rows() == {"taken": None}


async def test_a_batch_is_decided_by_position(ground: Ground) -> None:
    """A batch keeps the order of its requests, so that the first one gets the last money."""
    lane = offline_lane(ground.database, Failpoints())
    requests = [transfer(f"key-{n}", source="alice", destination="world") for n in range(3)]
    assert posted(await lane.post(ground.ledger_id, transfer("one")))
    outcomes = await post_all(lane, ground, requests)
    assert [posted(outcome) for outcome in outcomes] == [True, False, False]
    await check_books(ground.database_url)


async def test_a_field_that_one_request_has_is_its_own(ground: Ground) -> None:
    """
    A field that only one request of a batch has is stored and checked for that request; other requests leave it empty.
    """
    lane = offline_lane(ground.database, Failpoints())
    requests = [transfer(f"key-{number}") for number in range(4)]
    requests[1] = requests[1]._replace(reference="r", conditions='{"source_version":2}', source_version=2)
    requests[2] = requests[2]._replace(conditions='{"source_version":2}', source_version=2)
    outcomes = await post_all(lane, ground, requests)
    assert [posted(outcome) for outcome in outcomes] == [True, True, False, True]
    rows = await administer(
        ground.database_url,
        "SELECT reference, description, conditions, refusal FROM tallystick.transfers ORDER BY idempotency_key",
    )
    condition = '{"source_version":2}'
    assert [tuple(row) for row in rows] == [
        (None, None, None, None),
        ("r", None, condition, None),
        (None, None, condition, "condition_failed"),
        (None, None, None, None),
    ]
    assert [tuple(outcome.attempt)[13:16] for outcome in outcomes] == [tuple(row)[:3] for row in rows]


async def test_a_failed_posting_is_logged_once(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """An internal error is logged once, under the id of the request that met it."""
    async with in_process(database_url, failpoints="posting.before_batch=raise") as service:
        client = await service.client(LEDGER)
        answer = await client.transfer("world", "alice", 1)
        assert (answer.status, answer.json["outcome"], answer.json["retry"]) == (500, "unknown", "same_key")
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert errors == [f"request {answer.json['request_id']} failed"]
