"""The connection to Postgres fails: it is cut after the posting was sent, silent, slow, or refused."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from server.ledger import posting
from tests.support.client import Answer, Client
from tests.support.history import History
from tests.support.postgres import administer
from tests.support.proxy import Proxy, proxied
from tests.support.service import in_process, make_key

LEDGER = "proxied"
# Seconds in which every request must be answered: the deadline of the key's look-up and that of the posting, each with
# the half second for handing back a connection.
BOUND_SECONDS = 12.0


class Line(NamedTuple):
    """A service that reaches its database only through a proxy."""

    proxy: Proxy
    client: Client
    history: History

    async def send(self, name: str, count: int) -> list[Answer | None]:
        """Send transfers from `alice` to `bob` all at once; each must be answered within the bound."""
        async with asyncio.timeout(BOUND_SECONDS):
            return await asyncio.gather(
                *(self.history.transfer(self.client, f"{name}-{n}", "alice", "bob", 1) for n in range(count))
            )


@pytest.fixture
async def line(database_url: str, sockets: Path) -> AsyncIterator[Line]:
    """A service behind a proxy, with open connections that have prepared their statements."""
    async with proxied(database_url, sockets) as (proxy, through), in_process(through) as service:
        client = Client(service.session, service.url, await make_key(database_url, LEDGER))
        await client.fund("alice", 100_000)
        await client.open("bob")
        yield Line(proxy, client, History(database_url, LEDGER))


async def bound(database_url: str, name: str) -> int:
    """Return how many bound keys begin with *name*."""
    [row] = await administer(
        database_url,
        "SELECT count(*) AS keys FROM tallystick.transfers WHERE starts_with(idempotency_key, $1)",
        name,
    )
    return int(row["keys"])


async def test_a_reply_lost_after_the_commit_is_found_again(line: Line) -> None:
    """
    If the connection is cut after the posting was sent, the batch is sent again and finds itself, and callers notice
    nothing.
    """
    for number in range(5):
        line.proxy.cut_at, line.proxy.cuts_left = b"cut-%d-" % number, 1
        answers = await line.send(f"cut-{number}", 40)
        assert {answer.status for answer in answers if answer is not None} == {201}
        assert not any(answer.replayed for answer in answers if answer is not None)
    assert line.proxy.cut == 5
    assert line.history.count("posted") == 200
    line.proxy.heal()
    assert await line.client.balance("bob") == 200
    await line.history.settle(line.client)
    await line.history.check()


async def test_replies_lost_again_and_again_are_unknown(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no attempt is answered before the deadline, callers get `unknown`, and a retry tells them the outcome."""
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 2.0)
    line.proxy.cut_at, line.proxy.cuts_left = b"lost-", 1_000_000
    answers = await line.send("lost", 30)
    assert line.proxy.cut >= 2
    assert line.history.count("unknown") == 30
    for answer in answers:
        assert answer is not None
        assert (answer.status, answer.code, answer.json["retry"]) == (503, "unavailable", "same_key")
        assert answer.headers["Retry-After"]
    assert await bound(line.history.database_url, "lost-") == 30
    line.proxy.heal()
    await line.history.settle(line.client)
    assert await line.client.balance("bob") == 30
    await line.history.check()


async def test_postgres_lost_for_good_after_the_posting_was_sent(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If the connection is cut and none can be opened, callers whose posting was sent get `unknown`, others `not_applied`.
    """
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 2.0)
    line.proxy.cut_at, line.proxy.cuts_left = b"gone-", 1
    line.proxy.refuse = True
    await line.send("gone", 10)
    assert line.proxy.cut == 1
    unknown = line.history.count("unknown")
    assert unknown >= 1
    assert unknown + line.history.count("not_applied") == 10
    assert await bound(line.history.database_url, "gone-") == unknown
    line.proxy.heal()
    await line.history.settle(line.client)
    await line.history.check()


async def test_a_change_whose_reply_is_lost_is_not_sent_again(line: Line) -> None:
    """
    A change has no idempotency key, so its caller is told to read. With If-Match, the caller can send the same change
    again.
    """
    assert (await line.client.send("PATCH", "/v1/accounts/bob", {"metadata": {"warm": "up"}})).status == 200
    for version, headers, retry in ((3, {}, "never"), (4, {"If-Match": '"3"'}, "same_key")):
        line.proxy.cut_at, line.proxy.cuts_left = b"change-lost", 1
        answer = await change_bob(line, headers)
        told = (answer.status, answer.code, answer.json["outcome"], answer.json["retry"])
        assert told == (503, "unavailable", "unknown", retry)
        assert int(answer.headers["Retry-After"]) >= 1
        line.proxy.heal()
        assert (await line.client.account("bob"))["version"] == version
    again = await change_bob(line, {"If-Match": '"3"'})
    assert (again.status, again.json["retry"]) == (412, "never")


async def change_bob(line: Line, headers: dict[str, str]) -> Answer:
    """Change bob's metadata."""
    return await line.client.send("PATCH", "/v1/accounts/bob", {"metadata": {"a": "change-lost"}}, headers=headers)


async def test_postgres_refused_before_anything_was_sent(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If no connection can be opened from the start, callers get 503 `not_applied`, and the same key works afterwards.
    """
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 2.0)
    # The pool finds its connections dead before it writes to them.
    line.proxy.refuse = True
    line.proxy.cut_all()
    await asyncio.sleep(0.05)
    await line.send("never", 10)
    assert line.history.count("not_applied") == 10
    assert await bound(line.history.database_url, "never-") == 0
    line.proxy.heal()
    await line.history.settle(line.client)
    assert line.history.count("posted") == 10
    await line.history.check()


async def test_a_silent_postgres_holds_nobody_for_ever(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If all connections go silent under postings, every caller is answered in time, and the service works after the heal.
    """
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 2.0)
    line.proxy.hang()
    # Twice as many rounds as connections: each round uses the next connections, which are silent too.
    sendings = [asyncio.create_task(line.send(f"silent-{number}", 10)) for number in range(4)]
    answers = [answer for sending in sendings for answer in await sending]
    assert {answer.status for answer in answers if answer is not None} == {503}
    assert line.history.count("unknown") >= 1
    line.proxy.heal()
    await line.history.settle(line.client)
    assert await line.client.balance("bob") == 40
    await line.history.check()


async def test_connections_that_died_unseen_are_replaced(line: Line) -> None:
    """A short silence, shorter than any timeout, delays answers and changes none."""
    line.proxy.hang()
    sending = asyncio.create_task(line.send("late", 20))
    await asyncio.sleep(0.3)
    line.proxy.heal()
    assert {answer.status for answer in await sending if answer is not None} == {201}
    await line.history.check()


async def test_a_slow_line_delays_and_changes_nothing(line: Line) -> None:
    """With a delay of 20 ms on every piece in both directions, every transfer is posted."""
    line.proxy.delay(0.02)
    answers = await line.send("slow", 200)
    assert {answer.status for answer in answers if answer is not None} == {201}
    await line.history.check()


async def test_connections_cut_at_random_under_load(line: Line) -> None:
    """While connections are cut at random moments and clients retry, each transfer is posted once."""

    chance = random.Random(1)

    async def cutter() -> None:
        while True:
            # Sometimes long enough for a connection to be opened and used, even on a busy machine.
            await asyncio.sleep(chance.choice([chance.uniform(0.01, 0.15)] * 9 + [1.0]))
            line.proxy.cut_all()

    opened, rounds = line.proxy.accepted, 0
    cutting = asyncio.create_task(cutter())
    try:
        async with asyncio.timeout(60):
            # Every cut is followed by a new connection if requests are under way.
            while line.proxy.accepted < opened + 12:
                rounds += 1
                await asyncio.gather(
                    *(line.history.insist(line.client, f"rain-{rounds}-{n}", "alice", "bob", 1) for n in range(25))
                )
    finally:
        cutting.cancel()
    await line.history.settle(line.client)
    assert await line.client.balance("bob") == rounds * 25
    await line.history.check()
