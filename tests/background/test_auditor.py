"""The auditor finds what is wrong, tells it until it is gone, and takes nothing that is posted meanwhile for wrong."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from server.background import auditor as module
from server.background.auditor import LOOK_SECONDS, SHARE, Auditor
from server.background.hold_sweeper import Sweeper
from server.background.jobs import Job, keep
from server.books import create_books
from server.events.relay import Relay
from server.ledger.audit_pages import Page, PageAudit, Place
from server.settings import Settings
from server.store.background import stop
from server.store.errors import RolledBackError
from server.store.postgres import Database
from tests.support.audits import look, plant, relay_all
from tests.support.client import Client
from tests.support.postgres import administer
from tests.support.service import REDIS_PATIENCE_MS, Service, in_process

CHANGE = "UPDATE tallystick.accounts SET balance = balance + {} WHERE id = 'alice'"
# Of two ledgers together, in which many are busy.
ROUNDS = 3


class Counting(Database):
    """A database that counts the statements it is asked for."""

    asked = 0

    async def read(self, name: str, *arguments: object) -> Any:
        self.asked += 1
        return await super().read(name, *arguments)

    async def write(self, name: str, *arguments: object) -> Any:
        self.asked += 1
        return await super().write(name, *arguments)


@pytest.fixture
async def own(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """A service on a database of its own: the auditor looks at all ledgers."""
    async with in_process(database_url, redis_url) as service:
        yield service


@asynccontextmanager
async def auditing(service: Service) -> AsyncIterator[tuple[Auditor, Counting]]:
    """An auditor as a leader has it, whose steps a test makes."""
    database = Counting(service.database_url, posting_connections=1, reading_connections=1)
    async with database:
        auditor = Auditor(service.database_url, database)
        try:
            yield auditor, database
        finally:
            await auditor.close()


async def finish(auditor: Auditor) -> int:
    """Make steps until no ledger is due, and return how many they were."""
    steps = 1
    while await auditor.step() != LOOK_SECONDS:
        steps += 1
    return steps


def pages_of(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Have pages of so many rows, however long they take."""
    for name in ("PAGE_FIRST", "PAGE_MAX", "PAGE_MIN"):
        monkeypatch.setattr(module, name, rows)


async def integrity(client: Client) -> dict[str, Any]:
    """Return what the ledger's admin is told."""
    answer = await client.get("/v1/integrity")
    assert answer.status == 200, answer
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json
    return found


async def whole_round(auditor: Auditor, client: Client, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Check all ledgers once more, and return what the last round has found in the client's."""
    monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    assert await auditor.step() != LOOK_SECONDS
    monkeypatch.setattr(module, "REST_SECONDS", 600.0)
    await finish(auditor)
    last: dict[str, Any] = (await integrity(client))["last_round"]
    return last


async def test_a_finding(own: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """
    It is logged without a name, counted, shown to its ledger's admin alone, and stands until a whole round finds
    nothing.
    """
    assert (await (await own.client("books", "write")).get("/v1/integrity")).status == 403
    client, neighbour = await own.client("books"), await own.client("neighbour")
    assert await integrity(client) == {
        "head": {"position": 0, "link": "", "at": None},
        "last_round": None,
        "current_round": None,
    }
    for one in (client, neighbour):
        await one.fund("alice", 100)
    await relay_all(own.database_url)
    async with auditing(own) as (auditor, _):
        await finish(auditor)
        clean = await integrity(client)
        [head] = await administer(
            own.database_url,
            "SELECT position, link FROM tallystick.feed_heads ORDER BY ledger_id LIMIT 1",
        )
        assert (clean["head"]["position"], clean["head"]["link"]) == (head["position"], head["link"].hex())
        assert clean["last_round"]["findings"] == []
        # Three events, a transfer, two accounts with an entry and a change each.
        assert clean["last_round"]["rows"] == 3 + 1 + 2 + 2 + 2
        assert clean["current_round"] is None
        assert clean["last_round"]["started_at"] < clean["last_round"]["finished_at"]
        await plant(
            own.database_url,
            CHANGE.format(5) + " AND ledger_id = (SELECT id FROM tallystick.ledgers WHERE name = 'books')",
        )
        found = (await whole_round(auditor, client, monkeypatch))["findings"]
        assert [(finding["kind"], finding["total"]) for finding in found] == [
            ("balance_differs", 1),
            ("sum_not_zero", 1),
        ]
        assert found[0]["details"] == ["account alice: balance 105, its last entry left 100"]
        assert (await integrity(neighbour))["last_round"]["findings"] == []
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 2
        assert "balance_differs (1), found in accounts" in errors[0]
        assert "alice" not in caplog.text
        assert auditor.known.findings == 2
        await plant(own.database_url, CHANGE.format(-5) + " AND balance = 105")
        monkeypatch.setattr(module, "REST_SECONDS", 0.0)
        await auditor.step()
        assert (await integrity(client))["last_round"]["findings"] == found
        assert (await whole_round(auditor, client, monkeypatch))["findings"] == []
        assert {sample.name: sample.value for sample in auditor.samples()}["tallystick_integrity_findings"] == 0


async def test_busy_books(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers, refusals, holds that end in every way, changes and a relay beside it are no findings."""
    monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    pages_of(monkeypatch, 300)
    clients = [await own.client(name) for name in ("one", "two")]
    for client in clients:
        await client.fund("alice", 1_000_000)
        await client.open("bob", ceiling=500)
    done = asyncio.Event()

    async def pay(client: Client) -> None:
        while not done.is_set():
            assert (await client.transfer("alice", "shop", 3)).code in (None, "account_not_found")
            sent = await client.transfer("alice", "bob", 7, hold=True, expires_in=1)
            if sent.status == 201:
                path = f"/v1/transfers/{sent.json['id']}/capture"
                await client.send("POST", path, {"amount": 2}, headers={"Idempotency-Key": sent.json["id"]})
            await client.transfer("alice", "bob", 5, hold=True, expires_in=1)
            await client.send("PATCH", "/v1/accounts/bob", {"ceiling": 500, "metadata": {"a": "b"}})
            await client.transfer("bob", "alice", 2)

    settings = Settings(database_url=own.database_url, redis_url=own.redis_url, redis_timeout_ms=REDIS_PATIENCE_MS)
    async with create_books(settings) as books, AsyncExitStack() as stack:
        auditors = [(await stack.enter_async_context(auditing(own)))[0] for _ in range(2)]
        jobs: list[Job] = [Sweeper(books.database, books.posting), Relay(own.database_url)]
        running = [asyncio.create_task(keep(job)) for job in jobs]
        payers = [asyncio.create_task(pay(client)) for client in clients]
        done_rounds: set[tuple[int, object]] = set()
        try:
            while len(done_rounds) < ROUNDS:
                for auditor in auditors:
                    await auditor.step()
                for row in await administer(own.database_url, "SELECT * FROM tallystick.audit_rounds"):
                    assert row["findings"] == 0, (row["running"], row["last"])
                    if row["ended_at"] is not None:
                        done_rounds.add((row["ledger_id"], row["ended_at"]))
            assert not any(payer.done() for payer in payers)
        finally:
            done.set()
            await asyncio.gather(*payers)
            await stop(*running)
    assert (await look(own.database_url))[0] == {}


async def test_the_next_leader_goes_on(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one was killed, the next checks what was not kept, and no more; what was found stays found."""
    pages_of(monkeypatch, 1)
    monkeypatch.setattr(module, "VISIT_PAGES", 3)
    client = await own.client("books")
    for number in range(5):
        await client.fund(f"alice-{number}", 100)
    await relay_all(own.database_url)
    async with auditing(own) as (whole, _):
        steps = await finish(whole)
    await plant(
        own.database_url,
        "UPDATE tallystick.transfers SET metadata = '{ }'",
        "DELETE FROM tallystick.audit_rounds",
    )
    async with auditing(own) as (killed, _):
        for _ in range(steps // 2):
            await killed.step()
    before = (await integrity(client))["current_round"]
    assert before["rows"] > 0
    assert [finding["kind"] for finding in before["findings"]] == ["link_differs"]
    async with auditing(own) as (other, _):
        await other.step()
        assert other.known.findings == before["findings"][0]["total"]
        left = 1 + await finish(other)
    assert steps // 2 <= left < steps // 2 + 3 + 2
    last = (await integrity(client))["last_round"]
    assert last["started_at"] == before["started_at"]
    assert [(finding["kind"], finding["total"]) for finding in last["findings"]] == [("link_differs", 5)]


async def test_two_at_once(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was frozen, and went through the ledger before it was changed, takes back nothing of the other's."""
    client = await own.client("books")
    await client.fund("alice", 100)
    async with auditing(own) as (frozen, _), auditing(own) as (other, _):
        pages = await finish(other) - 1
        monkeypatch.setattr(module, "REST_SECONDS", 0.0)
        for _ in range(pages - 1):
            await frozen.step()
        await plant(own.database_url, CHANGE.format(5))
        for _ in range(pages):
            await other.step()
        found = (await integrity(client))["last_round"]
        assert [finding["kind"] for finding in found["findings"]] == ["balance_differs", "sum_not_zero"]
        await frozen.step()
        assert (await integrity(client))["last_round"] == found


async def test_what_comes_later_is_the_next_rounds(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round checks what there was when its parts began, however much is posted meanwhile."""
    pages_of(monkeypatch, 3)
    client = await own.client("books")
    await client.fund("alice", 100)
    for _ in range(3):
        assert (await client.transfer("world", "alice", 1)).status == 201
    await relay_all(own.database_url)
    async with auditing(own) as (auditor, _):
        steps = 0
        while (await auditor.step()) != LOOK_SECONDS:
            steps += 1
            assert steps < 100
            for _ in range(3):
                assert (await client.transfer("world", "alice", 1)).status == 201
            await relay_all(own.database_url)
    last = (await integrity(client))["last_round"]
    assert last["findings"] == []
    assert last["rows"] > 2 * 4


async def test_what_it_costs(own: Service) -> None:
    """It rests for its share of the time; with nothing to check it asks for little, and reads no ledger."""
    client = await own.client("books")
    await client.fund("alice", 100)
    async with auditing(own) as (auditor, database):
        began = time.monotonic()
        pause = await auditor.step()
        assert 0 < pause <= (time.monotonic() - began) * (1 / SHARE - 1)
        await finish(auditor)
        rows, database.asked = auditor.rows, 0
        assert [await auditor.step() for _ in range(10)] == [LOOK_SECONDS] * 10
        assert database.asked == 10
        assert auditor.rows == rows


async def test_rows_that_cannot_be_reckoned_with(own: Service) -> None:
    """They are a finding, and what comes after their part is checked all the same."""
    client = await own.client("books")
    await client.fund("alice", 100)
    await client.transfer("alice", "world", 1, hold=True)
    await client.transfer("alice", "world", 1, hold=True)
    await plant(
        own.database_url,
        f"UPDATE tallystick.transfers SET held = {2**63 - 1} WHERE kind = 'hold'",
        CHANGE.format(5),
    )
    async with auditing(own) as (auditor, _):
        await finish(auditor)
    kinds = {finding["kind"]: finding for finding in (await integrity(client))["last_round"]["findings"]}
    assert kinds.keys() >= {"held_wrong", "unreadable", "sum_not_zero"}
    assert kinds["unreadable"]["details"] == [
        "accounts: rows cannot be read or reckoned with: NumericValueOutOfRangeError"
    ]


async def test_sums_that_take_too_long(
    own: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A ledger with too many accounts is checked all the same, but for what follows from the rest."""
    client = await own.client("books")
    await client.fund("alice", 100)
    async with auditing(own) as (auditor, _):
        check = PageAudit.check

        async def slow(self: PageAudit, place: Place, size: int) -> Page:
            if place.part == "sums":
                raise RolledBackError("QueryCanceledError")
            return await check(self, place, size)

        monkeypatch.setattr(PageAudit, "check", slow)
        await finish(auditor)
    assert "could not be summed up: QueryCanceledError" in caplog.text
    assert (await integrity(client))["last_round"]["findings"] == []
