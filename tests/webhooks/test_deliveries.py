"""Deliveries: every event arrives at least once, in order until an attempt fails; a failed event is retried alone."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from standardwebhooks import Webhook

from server.events.webhooks import deliveries as module
from server.events.webhooks import records
from server.events.webhooks.deliveries import RETRY_SECONDS, pause_seconds
from server.ledger.ids import new_transfer_id
from server.store.postgres import Database
from tests.support.client import Client
from tests.support.clock import BooksClock
from tests.support.declared import check_message
from tests.support.events import position_reached
from tests.support.postgres import administer
from tests.support.service import Service
from tests.support.waiting import until
from tests.webhooks.conftest import OTHER_KEY, SHORT_SECONDS, Delivering, happen, listed, make, now
from tests.webhooks.receiver import Received, receiving, silence, status

PATH = "/v1/webhook-endpoints"


@pytest.fixture
async def admin(own: Service) -> Client:
    """An administrator of a ledger."""
    return await own.client("hooks")


def fails_at(*positions: int, code: int = 500) -> Any:
    """Answer with *code* at these positions, and with 200 otherwise."""

    async def behave(received: Received, writer: asyncio.StreamWriter) -> None:
        await status(code if received.position in positions else 200)(received, writer)

    return behave


async def test_in_order(admin: Client, delivering: Delivering) -> None:
    """An endpoint gets every event since its creation, once, in order, as the feed has it, and signed."""
    await happen(admin, 2, "before")
    async with delivering(), receiving(status(200)) as receiver:
        await until(partial(position_reached, admin, 2))
        made = await make(admin, receiver.url())
        assert made["position"] == 2
        await happen(admin, 60)
        await until(lambda: len(receiver.requests) == 60)
        assert receiver.positions == list(range(3, 63))
        for request in receiver.requests:
            check_message(request.body)
        await until(lambda: _position(admin, made, 62))
        event = Webhook(made["secret"]).verify(receiver.requests[0].body, receiver.requests[0].headers)
        assert (event["id"], event["type"]) == ("hooks/3", "tallystick.account.created.v1")
        assert event["data"] == (await admin.get("/v1/accounts/account-0")).json
        rows = await listed(admin, made, "deliveries")
        assert [row["position"] for row in rows] == list(range(62, 2, -1))
        assert {**rows[0], "attempted_at": "", "duration_ms": 0} == {
            "position": 62,
            "type": "account.created",
            "attempt": 1,
            "outcome": "delivered",
            "status": 200,
            "error": None,
            "attempted_at": "",
            "duration_ms": 0,
            "answer": "",
        }


async def _position(client: Client, endpoint: Any, position: int) -> bool:
    return bool((await now(client, endpoint))["position"] == position)


async def test_one_that_fails(admin: Client, delivering: Delivering, clock: BooksClock) -> None:
    """After a failed event the later ones are sent, and the failed one is retried on its own."""
    async with delivering(), receiving(fails_at(2)) as receiver:
        made = await make(admin, receiver.url())
        await happen(admin, 4)
        await until(lambda: _position(admin, made, 4))
        assert receiver.positions == [1, 2, 3, 4]
        [row] = await listed(admin, made, "undelivered")
        assert (row["position"], row["state"], row["attempts"]) == (2, "waiting", 1)
        receiver.behaviour = status(204)
        await clock.advance(pause_longest(1))
        await until(lambda: len(receiver.requests) == 5)
        assert receiver.positions[4] == 2
        assert receiver.requests[4].headers["webhook-id"] == receiver.requests[1].headers["webhook-id"]

        async def arrived() -> bool:
            return await listed(admin, made, "undelivered") == []

        await until(arrived)
        assert [row["outcome"] for row in await listed(admin, made, "deliveries")].count("failed") == 1


def pause_longest(attempts: int) -> float:
    """Return the seconds after which the next attempt is certainly due."""
    return RETRY_SECONDS[attempts - 1] * 1.2


async def test_the_schedule(admin: Client, delivering: Delivering, clock: BooksClock, own: Service) -> None:
    """An event that never arrives is tried eleven times, with pauses up to a tenth longer than scheduled, then dead."""
    async with delivering(), receiving(status(500, b"no")) as receiver:
        made = await make(admin, receiver.url())
        await happen(admin, 1)
        for attempt, seconds in enumerate(RETRY_SECONDS, start=1):

            async def recorded(attempt: int = attempt) -> bool:
                rows = await listed(admin, made, "undelivered")
                return bool(rows and rows[0]["attempts"] == attempt)

            await until(recorded)
            [row] = await administer(
                own.database_url,
                "SELECT extract(epoch FROM due_at - tallystick.ledger_clock())::float8 AS left"
                " FROM tallystick.webhook_retries",
            )
            assert seconds - 5 < row["left"] <= seconds * 1.1
            await clock.advance(row["left"] - 1.0 if row["left"] > 10 else 0)
            assert len(receiver.requests) == attempt
            await clock.advance(pause_longest(attempt))
            await until(lambda attempt=attempt: len(receiver.requests) == attempt + 1)

        async def dead() -> bool:
            return bool((await listed(admin, made, "undelivered"))[0]["state"] == "dead")

        await until(dead)
        rows = await listed(admin, made, "deliveries")
        assert [(row["attempt"], row["outcome"]) for row in rows] == [
            (11, "dead"),
            *((attempt, "failed") for attempt in range(10, 0, -1)),
        ]
        assert {(row["status"], row["answer"]) for row in rows} == {(500, "no")}
        assert (await listed(admin, made, "undelivered"))[0]["next_attempt_at"] is None
        # A replay sends it again.
        receiver.behaviour = status(200)
        await admin.post(f"{PATH}/{made['id']}/replay", {"from_position": 1})
        await until(lambda: len(receiver.requests) == 12)
        assert await listed(admin, made, "undelivered") == []


def test_pauses_are_spread() -> None:
    """A pause is up to a tenth longer than scheduled, and rarely equal to another."""
    pauses = [pause_seconds(5) for _ in range(100)]
    assert len(set(pauses)) > 90
    assert all(7_200 <= pause <= 7_920 for pause in pauses)


async def test_a_slow_one_delays_no_other(admin: Client, own: Service, delivering: Delivering) -> None:
    """A silent endpoint does not delay another one of the same ledger or one of another ledger."""
    other = await own.client("others")
    async with receiving(silence) as slow, receiving(status(200)) as quick, receiving(status(200)) as theirs:
        await make(admin, slow.url())
        await make(admin, quick.url())
        await make(other, theirs.url())
        async with delivering(seconds=60):
            await happen(admin, 20)
            await happen(other, 20)
            await until(lambda: quick.positions == theirs.positions == list(range(1, 21)))
            assert slow.positions == [1]


async def test_many_slow_ones_delay_no_other(
    admin: Client, own: Service, delivering: Delivering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many slow endpoints of one ledger do not delay an endpoint of another ledger."""
    for name, value in (("WALKS_MAX", 4), ("OF_LEDGER_MAX", 3), ("SLOW_MAX", 2), ("SLOW_SECONDS", 0.01)):
        monkeypatch.setattr(module, name, value)
    release = asyncio.Event()

    async def held(request: Received, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await status(200)(request, writer)

    other = await own.client("others")
    async with receiving(held) as slow, receiving(status(200)) as theirs:
        for _ in range(8):
            await make(admin, slow.url())
        await make(other, theirs.url())
        async with delivering(seconds=60):
            await happen(admin, 5)
            await until(lambda: len(slow.requests) >= 3)
            await happen(other, 20)
            await until(lambda: theirs.positions == list(range(1, 21)))
            release.set()


@pytest.mark.parametrize(("table", "column"), [("webhook_endpoints", "id"), ("webhook_retries", "endpoint_id")])
async def test_a_locked_row(
    admin: Client,
    own: Service,
    delivering: Delivering,
    clock: BooksClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    table: str,
    column: str,
) -> None:
    """While a row of an endpoint is locked, its outcome waits to be recorded; nothing is sent again, anywhere."""
    monkeypatch.setattr(records, "HELD_SECONDS", 0.01)
    beside = await own.client("beside")
    connection = await asyncpg.connect(own.database_url)
    async with delivering(), receiving(fails_at(2)) as receiver, receiving(status(200)) as other:
        made, made_beside = await make(admin, receiver.url()), await make(beside, other.url())
        await happen(admin, 2)
        await until(lambda: _position(admin, made, 2))
        receiver.behaviour = status(200)
        works = [partial(happen, admin, 2, "more"), partial(clock.advance, pause_longest(1))]
        first, second = works if column == "id" else reversed(works)
        try:
            async with connection.transaction():
                await connection.execute(
                    f"SELECT FROM tallystick.{table} WHERE {column} = $1 FOR UPDATE", UUID(made["id"])
                )
                await first()
                await until(lambda: len(receiver.requests) == 3)
                await happen(beside, 20)
                await until(lambda: _position(beside, made_beside, 20))
                assert len(receiver.requests) == 3
        finally:
            await connection.close()
        await second()
        await until(lambda: _position(admin, made, 4))

        async def arrived() -> bool:
            return await listed(admin, made, "undelivered") == []

        await until(arrived)
        assert sorted(receiver.positions) == [1, 2, 2, 3, 4]
        assert other.positions == list(range(1, 21))


async def test_types(admin: Client, delivering: Delivering) -> None:
    """Events of other types are not sent, not even after the endpoint asks for their type later."""
    async with delivering(), receiving(status(200)) as receiver:
        made = await make(admin, receiver.url(), types=["account.closed", "account.updated"])
        await happen(admin, 3)
        await until(lambda: _position(admin, made, 3))
        await admin.send("PATCH", "/v1/accounts/account-1", {"metadata": {"a": "b"}})
        await until(lambda: receiver.positions == [4])
        await admin.send("PATCH", f"{PATH}/{made['id']}", {"types": ["account.created"]})
        await happen(admin, 1, "later")
        await admin.send("PATCH", "/v1/accounts/account-1", {"closed": True})
        await until(lambda: _position(admin, made, 6))
        assert receiver.positions == [4, 5]


@pytest.mark.parametrize("reason", ["gone", "requested"])
async def test_a_disabled_one_keeps_its_place(admin: Client, delivering: Delivering, reason: str) -> None:
    """An endpoint disabled by a 410 or by request gets nothing; enabled again, it gets the missed events in order."""
    async with delivering(), receiving(fails_at(3, code=410) if reason == "gone" else status(200)) as receiver:
        made = await make(admin, receiver.url())
        if reason == "requested":
            await admin.send("PATCH", f"{PATH}/{made['id']}", {"state": "disabled"})
        await happen(admin, 5)

        async def disabled() -> bool:
            return bool((await now(admin, made))["disabled_reason"] == reason)

        await until(disabled)
        reached = 2 if reason == "gone" else 0
        assert (await now(admin, made))["position"] == reached
        assert len(receiver.requests) == (3 if reason == "gone" else 0)
        receiver.requests.clear()
        receiver.behaviour = status(200)
        await admin.send("PATCH", f"{PATH}/{made['id']}", {"state": "enabled"})
        await until(lambda: receiver.positions == list(range(reached + 1, 6)))
        assert await listed(admin, made, "undelivered") == []


async def test_a_rest_begins_at_once(admin: Client, delivering: Delivering, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disabled endpoint gets nothing more, even before the next look."""
    async with receiving(status(200)) as receiver, receiving(status(200)) as other:
        made = await make(admin, receiver.url())
        await make(admin, other.url())
        monkeypatch.setattr(module, "LOOK_SECONDS", 3_600.0)
        async with delivering():
            await happen(admin, 1)
            await until(lambda: receiver.positions == other.positions == [1])
            await admin.send("PATCH", f"{PATH}/{made['id']}", {"state": "disabled"})
            for position in (2, 3):
                await happen(admin, 1, f"more-{position}")
                await until(lambda position=position: position in other.positions)
    assert receiver.positions == [1]


async def test_changes_are_noticed(admin: Client, delivering: Delivering) -> None:
    """A new URL and a new secret apply from the next event on, even if many events wait; so does a removal."""
    held = asyncio.Event()

    async def hold(received: Received, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        await status(200)(received, writer)

    async with delivering(), receiving(hold) as old, receiving(status(200)) as new, receiving(status(200)) as other:
        made = await make(admin, old.url())
        await happen(admin, 5)
        await until(lambda: old.positions == [1])
        await admin.send("PATCH", f"{PATH}/{made['id']}", {"url": new.url()})
        rotated = await admin.post(f"{PATH}/{made['id']}/rotate-secret", {})
        # Once the later endpoint is known, so are the earlier changes.
        await make(admin, other.url())
        await happen(admin, 1, "more")
        await until(lambda: 6 in other.positions)
        held.set()
        await until(lambda: new.positions == [2, 3, 4, 5, 6])
        assert old.positions == [1]
        for secret in (made["secret"], rotated.json["secret"]):
            Webhook(secret).verify(new.requests[0].body, new.requests[0].headers)
        await admin.send("DELETE", f"{PATH}/{made['id']}")
        await happen(admin, 1, "last")
        await until(lambda: 7 in other.positions)
        assert len(new.positions) == 5


async def test_replay(admin: Client, delivering: Delivering) -> None:
    """A replay sends everything from a position on again, in order; a position in the future is refused."""
    async with delivering(), receiving(status(200)) as receiver:
        made = await make(admin, receiver.url())
        await happen(admin, 5)
        await until(lambda: _position(admin, made, 5))
        answer = await admin.post(f"{PATH}/{made['id']}/replay", {"from_position": 4})
        assert (answer.status, answer.json["position"]) == (200, 3)
        await until(lambda: receiver.positions == [1, 2, 3, 4, 5, 4, 5])
        answer = await admin.post(f"{PATH}/{made['id']}/replay", {"from_position": 100})
        assert (answer.status, answer.code, "is 5." in answer.json["detail"]) == (409, "position_not_reached", True)
        answer = await admin.post(f"{PATH}/{made['id']}/replay", {"from_position": 6})
        assert (answer.status, answer.json["position"]) == (200, 5)
        await happen(admin, 1, "more")
        await until(lambda: receiver.positions[7:] == [6])


async def test_a_replay_under_way(admin: Client, delivering: Delivering) -> None:
    """An attempt that is running during a replay does not move the endpoint forward."""
    held = asyncio.Event()

    async def behave(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.position == 3:
            await held.wait()
        await status(200)(received, writer)

    async with delivering(), receiving(behave) as receiver:
        made = await make(admin, receiver.url())
        await happen(admin, 3)
        await until(lambda: receiver.positions == [1, 2, 3])
        await admin.post(f"{PATH}/{made['id']}/replay", {"from_position": 1})
        held.set()
        await until(lambda: receiver.positions == [1, 2, 3, 1, 2, 3])
        await until(lambda: _position(admin, made, 3))


async def test_two_at_once(admin: Client, delivering: Delivering) -> None:
    """Two processes that both act as leader lose no event, and list a failed one once."""
    async with receiving(fails_at(7)) as receiver:
        made = await make(admin, receiver.url())
        async with delivering(), delivering():
            await happen(admin, 30)
            await until(lambda: _position(admin, made, 30))
        assert set(receiver.positions) == set(range(1, 31))
        assert [row["position"] for row in await listed(admin, made, "undelivered")] == [7]


async def test_one_that_is_down(admin: Client, delivering: Delivering, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some failures the endpoint is tried less often; beyond a number of failed events its position stays."""
    monkeypatch.setattr(records, "WAITING_MAX", 4)
    monkeypatch.setattr(module, "PAUSE_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(module, "PAUSE_MAX_SECONDS", 0.02)
    async with delivering(seconds=SHORT_SECONDS), receiving(status(500)) as receiver:
        made = await make(admin, receiver.url())
        await happen(admin, 10)
        await until(lambda: receiver.positions.count(5) >= 3)
        assert set(receiver.positions) == {1, 2, 3, 4, 5}
        assert (await now(admin, made))["position"] == 4
        receiver.behaviour = status(200)
        await until(lambda: _position(admin, made, 10))
        assert [row["position"] for row in await listed(admin, made, "undelivered")] == [1, 2, 3, 4]


async def test_pauses_of_one_that_is_down(
    admin: Client, delivering: Delivering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first failures in a row cause no pause, the next one does."""
    monkeypatch.setattr(module, "PAUSE_FIRST_SECONDS", 3_600.0)
    monkeypatch.setattr(module, "PAUSE_MAX_SECONDS", 3_600.0)
    async with delivering() as job, receiving(status(500)) as receiver, receiving(status(200)) as other:
        made = await make(admin, receiver.url())
        await make(admin, other.url())
        await happen(admin, 10)
        await until(lambda: len(other.requests) == 10)
        await until(lambda: _position(admin, made, module.FAILURES_FREE + 1))
        assert receiver.positions == list(range(1, module.FAILURES_FREE + 2))
        samples = {(sample.name, sample.labels): sample.value for sample in job.samples()}
        assert samples["tallystick_webhook_attempts_total", ("failed",)] == module.FAILURES_FREE + 1
        assert samples["tallystick_webhook_attempts_total", ("delivered",)] == 10


async def test_what_is_on_its_way_at_the_end(admin: Client, delivering: Delivering) -> None:
    """When a leader stops, an answered attempt is still recorded, and no further one begins."""
    held = asyncio.Event()

    async def hold(received: Received, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        await status(200)(received, writer)

    async with receiving(hold) as receiver:
        made = await make(admin, receiver.url())
        await happen(admin, 3)
        leading = AsyncExitStack()
        await leading.enter_async_context(delivering())
        await until(lambda: receiver.positions == [1])
        leaving = asyncio.create_task(leading.aclose())
        await asyncio.sleep(0)
        held.set()
        await leaving
        assert (receiver.positions, (await now(admin, made))["position"]) == ([1], 1)
        async with delivering():
            await until(lambda: receiver.positions == [1, 2, 3])


async def test_what_is_recorded_late(admin: Client, own: Service) -> None:
    """A late outcome of an overtaken attempt changes nothing, and the same outcome counts once."""
    made = await make(admin, "http://127.0.0.1:1/")
    [row] = await administer(own.database_url, "SELECT ledger_id FROM tallystick.webhook_endpoints")
    async with Database(own.database_url, posting_connections=1, reading_connections=1) as database:
        writer = records.Records(database)

        def outcome(reached: int | None, attempt: int, outcome: str, replay: int = 0) -> records.Outcome:
            at = datetime.now(UTC)
            event = (5, attempt, outcome, 5.0, new_transfer_id(), "account.created", at, 1, 500, None, b"")
            return records.Outcome(row["ledger_id"], UUID(made["id"]), replay, reached, *event)

        first = outcome(5, 1, "failed")
        assert await writer.write(first) is True
        assert await writer.write(first) is False
        assert await writer.write(outcome(4, 1, "failed")) is False
        assert await writer.write(outcome(9, 1, "delivered", replay=1)) is False
        for attempt, expected in ((3, 3), (2, 3)):
            await writer.write(outcome(None, attempt, "failed"))
            assert [row["attempts"] for row in await listed(admin, made, "undelivered")] == [expected]
        assert (await now(admin, made))["position"] == 5
        await writer.write(outcome(None, 4, "delivered"))
        assert await listed(admin, made, "undelivered") == []
        assert len(await listed(admin, made, "deliveries")) == 6


@pytest.mark.parametrize("key", [None, OTHER_KEY])
async def test_without_the_key(
    admin: Client, delivering: Delivering, caplog: pytest.LogCaptureFixture, key: str | None
) -> None:
    """Without its key nothing is sent; the log says so once, and the endpoint keeps its position."""
    async with receiving(status(200)) as receiver:
        made = await make(admin, receiver.url())
        async with delivering(key):
            await happen(admin, 3)
            await until(lambda: "webhook_key is not" in caplog.text)
            await until(partial(position_reached, admin, 3))
        assert caplog.text.count("webhook_key is not") == 1
        assert (receiver.requests, (await now(admin, made))["position"]) == ([], 0)
        async with delivering():
            await until(lambda: receiver.positions == [1, 2, 3])
