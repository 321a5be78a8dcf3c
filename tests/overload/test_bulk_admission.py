"""More bulks than a worker decodes at once: they wait, are refused before they are decoded, and may be retried."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import cast

import pytest

from server.http import bulk_admission
from server.http.bulk_admission import BulkAdmission, Room
from server.http.handlers.bulk import BulkHandlers
from server.ledger import posting
from server.store.coalescer import QueueFullError
from tests.support.books import check_books
from tests.support.client import Answer, Client
from tests.support.locks import held
from tests.support.postgres import administer
from tests.support.service import Service, in_process
from tests.support.waiting import until

LEDGER = "bulks"
PATH = "/v1/transfers/bulk"
# The most transfers under way at once, and the most waiting bulks.
TRANSFERS_MAX = 10
WAITING_MAX = 3
FOR_EVER = 60.0


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room, and waits long enough for the test to look at them."""
    monkeypatch.setattr(bulk_admission, "TRANSFERS_MAX", TRANSFERS_MAX)
    monkeypatch.setattr(bulk_admission, "WAITING_MAX", WAITING_MAX)
    monkeypatch.setattr(bulk_admission, "WAIT_SECONDS", FOR_EVER)


def entering(some: BulkAdmission, *bulks: int, ledger_id: int = 1) -> list[asyncio.Task[Room]]:
    """Start bulks of these sizes that ask for room, in this order."""
    return [asyncio.create_task(some.enter(ledger_id, transfers)) for transfers in bulks]


async def entered(tasks: list[asyncio.Task[Room]]) -> list[bool]:
    """Return for each bulk whether it has room by now."""
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() and not task.cancelled() and task.exception() is None for task in tasks]


async def test_room_goes_to_the_first_that_waits() -> None:
    """Bulks enter in order of arrival: a small one does not pass a large one."""
    some = BulkAdmission()
    tasks = entering(some, 6, 4, 7, 1)
    assert await entered(tasks) == [True, True, False, False]
    tasks[1].result().leave()
    assert await entered(tasks) == [True, True, False, False]
    tasks[0].result().leave()
    assert await entered(tasks) == [True] * 4
    assert some.waiting == 0


async def test_a_ledger_does_not_wait_for_another() -> None:
    """Each ledger has its own room."""
    some = BulkAdmission()
    tasks = entering(some, TRANSFERS_MAX, TRANSFERS_MAX)
    others = entering(some, TRANSFERS_MAX, ledger_id=2)
    assert await entered(tasks + others) == [True, False, True]
    others[0].result().leave()
    assert await entered(tasks) == [True, False]
    tasks[0].result().leave()
    await tasks[1]


async def test_room_is_left_once() -> None:
    """Room given back twice counts once, and a ledger without bulks takes no memory."""
    some = BulkAdmission()
    first, second, third = [await task for task in entering(some, 4, 4, 2)]
    for room in (first, first, second):
        room.leave()
    tasks = entering(some, 8, 1)
    assert await entered(tasks) == [True, False]
    for room in (third, tasks[0].result()):
        room.leave()
    (await tasks[1]).leave()
    assert (some._ledgers, some.waiting) == ({}, 0)


async def test_few_bulks_wait() -> None:
    """When the most bulks wait, of all ledgers together, one more is refused at once."""
    some = BulkAdmission()
    tasks = entering(some, TRANSFERS_MAX, 1, 1) + entering(some, TRANSFERS_MAX, 1, ledger_id=2)
    await entered(tasks)
    assert some.waiting == WAITING_MAX
    with pytest.raises(QueueFullError):
        await some.enter(1, 1)
    with pytest.raises(QueueFullError):
        await some.enter(2, 1)
    tasks[0].result().leave()
    await asyncio.gather(*tasks[1:3])
    await some.enter(1, 1)


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk that waits too long is refused and holds no room; a smaller one behind it may then enter."""
    some = BulkAdmission()
    [held_room] = [await task for task in entering(some, 8)]
    monkeypatch.setattr(bulk_admission, "WAIT_SECONDS", 0.0)
    large = entering(some, 5)
    await entered(large)
    monkeypatch.setattr(bulk_admission, "WAIT_SECONDS", FOR_EVER)
    [small_one] = entering(some, 2)
    with pytest.raises(QueueFullError):
        await large[0]
    (await small_one).leave()
    held_room.leave()
    assert (some._ledgers, some.waiting) == ({}, 0)


@pytest.mark.parametrize("when", ["it waits", "it has room", "it is refused"])
async def test_who_is_cancelled_holds_nothing(when: str) -> None:
    """A bulk that is cancelled while it waits, or just as it is answered, leaves its room to the next."""
    some = BulkAdmission()
    [room] = [await task for task in entering(some, TRANSFERS_MAX)]
    first, second = entering(some, 6, 6)
    await entered([first, second])
    if when == "it has room":
        room.leave()
    elif when == "it is refused":
        some._ledgers[1].waiting[0].admitted.set_result(False)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    room.leave()
    (await second).leave()
    assert (some._ledgers, some.waiting) == ({}, 0)


@pytest.fixture
async def service(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service for this test alone."""
    async with in_process(database_url, redis_url) as running:
        yield running


@pytest.fixture
async def books(service: Service) -> Client:
    """A client in whose ledger `world` has no floor and `alice` has money."""
    client = await service.client(LEDGER)
    await client.fund("alice", 1_000)
    return client


def items(count: int, prefix: str, source: str = "world", destination: str = "alice") -> list[dict[str, object]]:
    """Return this many transfers of 1."""
    order = {"source": source, "destination": destination, "amount": 1, "currency": "EUR"}
    return [{"key": f"{prefix}-{number}", **order} for number in range(count)]


def handlers_of(service: Service) -> BulkHandlers:
    """Return the handlers of a service's bulks."""
    assert service.app is not None
    match = service.app.server.pipeline._router.find(PATH)
    assert match is not None
    return cast(BulkHandlers, getattr(match[0]["POST"].make_room, "__self__", None))


def admission_of(service: Service) -> BulkAdmission:
    """Return the bulk admission of a service."""
    return handlers_of(service)._admission


async def fill(service: Service) -> Room:
    """Take all the room of the ledger."""
    [row] = await administer(service.database_url, "SELECT id FROM tallystick.ledgers WHERE name = $1", LEDGER)
    return await admission_of(service).enter(row["id"], TRANSFERS_MAX)


def refused(answer: Answer) -> bool:
    """Check a 503, and return whether it says that there was no room."""
    assert answer.status == 503, answer
    assert 1 <= int(answer.headers["Retry-After"]) <= 3
    assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "same_key")
    return bool(answer.code == "overloaded")


async def tokens_left(client: Client) -> int:
    """Read an account, and return how many tokens are left."""
    answer = await client.get("/v1/accounts/alice")
    return int(answer.headers["RateLimit"].partition("r=")[2].partition(";")[0])


async def test_bulks_of_many_callers_are_all_served(
    service: Service, books: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four callers of one ledger at once, many times what a worker decodes at once, are all served."""
    monkeypatch.setattr(bulk_admission, "WAITING_MAX", 64)
    bodies = [{"transfers": items(4, f"caller-{caller}")} for caller in range(64)]
    answers = await asyncio.gather(*(books.post(PATH, body) for body in bodies))
    assert {result["status"] for answer in answers for result in answer.json["results"]} == {201}
    assert await books.balance("alice") == 1_000 + 64 * 4
    await check_books(service.database_url)
    assert (admission_of(service)._ledgers, admission_of(service).waiting) == ({}, 0)


async def test_a_bulk_without_room_is_not_decoded(service: Service, books: Client) -> None:
    """
    If there is no room to run or to wait, even broken JSON gets 503, because the body is not read. No token is taken,
    no key is bound, and the same bulk works afterwards.
    """
    admission, room = admission_of(service), await fill(service)
    waiting = [asyncio.create_task(books.post(PATH, {"transfers": items(2, f"waits-{n}")})) for n in range(WAITING_MAX)]
    await until(lambda: admission.waiting == WAITING_MAX)
    body = {"transfers": items(5, "refused")}
    before = await tokens_left(books)
    assert refused(await books.post(PATH, body))
    assert refused(await books.send("POST", PATH, raw=b"{"))
    # The read takes one token, and the bulks took none.
    assert await tokens_left(books) >= before - 1
    room.leave()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert (await books.send("POST", PATH, raw=b"{")).code == "invalid_request"
    results = (await books.post(PATH, body)).json["results"]
    assert [(result["status"], result["replayed"]) for result in results] == [(201, False)] * 5
    assert await books.balance("alice") == 1_000 + 5 + 2 * WAITING_MAX


async def test_a_bulk_that_found_no_room_in_time_is_refused(
    service: Service, books: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bulk that has waited too long is refused, and nothing of it has been done."""
    monkeypatch.setattr(bulk_admission, "WAIT_SECONDS", 0.0)
    room = await fill(service)
    assert refused(await books.post(PATH, {"transfers": items(1, "late")}))
    assert (await books.get("/v1/idempotency-keys/late-0")).status == 404
    room.leave()
    assert (await books.post(PATH, {"transfers": items(1, "late")})).status == 200


async def test_a_bulk_is_refused_where_too_many_postings_wait(
    service: Service, books: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the queue of postings is full, a bulk is refused before it is decoded."""

    def full(*_: object) -> None:
        raise QueueFullError

    monkeypatch.setattr(posting.PostingLane, "check_room", full)
    assert refused(await books.send("POST", PATH, raw=b"{"))
    assert (admission_of(service)._ledgers, admission_of(service).waiting) == ({}, 0)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b'{"transfers":[]}', id="no items"),
        pytest.param(json.dumps({"transfers": items(1, "x"), "more": 1}).encode(), id="another member"),
        pytest.param(json.dumps({"transfers": items(2, "y", destination="world")}).encode(), id="items that are wrong"),
        pytest.param(json.dumps({"transfers": items(8, "z"), "atomic": True}).encode(), id="a set"),
    ],
)
async def test_room_is_given_back_however_a_bulk_ends(service: Service, books: Client, body: bytes) -> None:
    """An answered bulk takes no room, whatever was wrong with it."""
    assert (await books.send("POST", PATH, raw=body)).status in (200, 400)
    assert (admission_of(service)._ledgers, admission_of(service).waiting) == ({}, 0)


async def test_a_bulk_that_waits_for_a_locked_row_takes_up_no_room(service: Service, books: Client) -> None:
    """A bulk that waits for a locked account leaves its room to other bulks of its ledger."""
    await books.open("bob")
    await books.open("other", floor=None)
    rows = handlers_of(service)._posting._rows
    async with held(service.database_url, "alice"):
        stuck = asyncio.create_task(books.post(PATH, {"transfers": items(TRANSFERS_MAX, "stuck")}))
        await until(lambda: rows._waiting > 0)
        served = await books.post(PATH, {"transfers": items(TRANSFERS_MAX, "served", "other", "bob")})
        assert {result["status"] for result in served.json["results"]} == {201}
        assert not stuck.done()
    assert {result["status"] for result in (await stuck).json["results"]} == {201}


async def test_a_caller_who_has_gone_posts_nothing(service: Service, books: Client) -> None:
    """A bulk whose caller disconnects while it waits for room is not posted."""
    admission, room = admission_of(service), await fill(service)
    going = asyncio.create_task(books.post(PATH, {"transfers": items(1, "gone")}))
    await until(lambda: admission.waiting == 1)
    going.cancel()
    await asyncio.wait([going])
    assert service.app is not None
    connections = service.app.server.open_connections
    await until(lambda: connections.count == 0)
    room.leave()
    await until(lambda: not admission._ledgers)
    assert (await books.get("/v1/idempotency-keys/gone-0")).status == 404
