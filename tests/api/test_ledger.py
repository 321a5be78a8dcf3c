"""The ledger resource: its name, its counts and its limits."""

import re

import pytest

from server.background.auditor import LOOK_SECONDS, Auditor
from server.gate.key_store import KeyLimit
from server.ledger import summary
from server.ledger.summary import COUNTED_MAX
from server.store.postgres import Database
from tests.support.client import Client
from tests.support.service import Service, in_process

COUNTS = {"accounts": {"count": 0, "exact": True}, "transfers": {"count": 0, "exact": True}, "events": 0}


async def test_an_empty_ledger(client: Client, ledger: str) -> None:
    """An empty ledger has a name, and neither accounts nor transfers."""
    answer = await client.get("/v1/ledger")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.json["name"] == ledger
    assert answer.json["counts"] == COUNTS
    assert answer.json["oldest_transfer"] is answer.json["newest_transfer"] is None


async def test_what_is_in_it(client: Client) -> None:
    """Accounts and transfers are counted, refused ones too; the oldest and newest transfer are posted ones."""
    await client.fund("alice", 100)
    oldest = (await client.get("/v1/transfers")).json["data"][0]
    newest = (await client.transfer("alice", "world", 1, hold=True)).json
    assert (await client.transfer("alice", "world", 1_000)).status == 409
    found = (await client.get("/v1/ledger")).json
    assert found["counts"]["accounts"] == {"count": 2, "exact": True}
    assert found["counts"]["transfers"] == {"count": 3, "exact": True}
    assert found["oldest_transfer"] == {"id": oldest["id"], "created_at": oldest["created_at"]}
    assert found["newest_transfer"] == {"id": newest["id"], "created_at": newest["created_at"]}


async def test_limits_in_force(service: Service, ledger: str) -> None:
    """The answer shows the rates of the key, and the bounds of bodies, pages and bulks."""
    client = await service.client(ledger, "read", KeyLimit(50, 60, 70, 8))
    limits = (await client.get("/v1/ledger")).json["limits"]
    assert limits["rates"] == [{"name": "default", "quota": 50, "window_seconds": 60, "burst": 70}]
    assert limits["concurrency"] == 8
    assert (limits["bulk_items"], limits["page_rows"], limits["body_bytes"]) == (1_000, 100, 65_536)


async def test_a_large_ledger(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound of exact counting, the count is the auditor's, or the bound before its first round."""
    monkeypatch.setattr(summary, "COUNTED_MAX", 3)
    async with in_process(database_url, redis_url) as service:
        client = await service.client("large")
        await client.fund("alice", 100)
        for number in range(4):
            assert (await client.open(f"customer:{number}")).status == 201
            assert (await client.transfer("world", "alice", 1)).status == 201
        before = (await client.get("/v1/ledger")).json["counts"]
        assert before["accounts"] == before["transfers"] == {"count": 3, "exact": False}
        async with Database(database_url, posting_connections=1, reading_connections=1) as database:
            auditor = Auditor(database_url, database)
            while await auditor.step() != LOOK_SECONDS:
                pass
            await auditor.close()
        counts = (await client.get("/v1/ledger")).json["counts"]
        assert counts["accounts"] == {"count": 6, "exact": False}
        assert counts["transfers"] == {"count": 5, "exact": False}


def test_the_bound_is_documented() -> None:
    """The documented bound of exact counting is the one in force."""
    from server.http.openapi import document

    told = re.findall(rb"False from (\d+) on", document())
    assert [int(number) for number in told] == [COUNTED_MAX]
