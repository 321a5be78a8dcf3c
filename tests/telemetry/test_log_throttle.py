"""Log lines that requests cause: at most one for each request and statement, and a limited number a second."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from server.store.statements import Statements
from server.telemetry.log_throttle import LINES_PER_SECOND_MAX, LogThrottle
from tests.input.broken_http import MARK
from tests.support.locks import held, somebody_waits
from tests.support.service import in_process
from tests.support.waiting import until

REQUESTS = "server.http.observer"
STATEMENTS = "server.store.statements"
SLOW_MS = 50


def fields(caplog: pytest.LogCaptureFixture, name: str) -> list[Mapping[str, Any]]:
    """Return the structured fields of a logger's lines."""
    return [record.fields for record in caplog.records if record.name == name]  # type: ignore[attr-defined]


def test_lines_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """The lines of each second are limited; the first line after that says how many were left out."""
    throttle = LogThrottle(logging.getLogger("lines"), "line")
    with caplog.at_level(logging.INFO):
        for now in (1.0,) * (LINES_PER_SECOND_MAX + 7) + (2.0, 2.5):
            if throttle.allows(now):
                throttle.write({"now": now, "nothing": None})
    assert fields(caplog, "lines")[LINES_PER_SECOND_MAX - 1 :] == [
        {"now": 1.0},
        {"now": 2.0, "unsaid": 7},
        {"now": 2.5},
    ]


def test_quick_statements_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Only statements slower than the bound are logged, with their known details."""
    with caplog.at_level(logging.INFO):
        Statements(1e6).ended("quick", 0.0)
        Statements(0.0).ended("slow", 0.0, items=3)
        Statements(0.0).ended("slower", 0.0, rows=[1, 2])
    said = [{k: v for k, v in line.items() if k != "total_ms"} for line in fields(caplog, STATEMENTS)]
    assert said == [{"statement": "slow", "items": 3}, {"statement": "slower", "rows": 2}]


async def test_a_slow_posting(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A slow batch has one line with the name of its statement, and its request has another."""
    async with in_process(database_url, slow_ms=SLOW_MS) as service:
        client = await service.client("slow")
        await client.open("world", floor=None)
        await client.open(MARK)
        with caplog.at_level(logging.INFO):
            caplog.clear()
            async with held(database_url, MARK):
                headers = {"X-Request-Id": "the-slow-one", "Idempotency-Key": MARK}
                posting = asyncio.create_task(client.send("POST", "/v1/transfers", _transfer(), headers=headers))
                await until(lambda: somebody_waits(database_url))
                await asyncio.sleep(3 * SLOW_MS / 1000)
            assert (await posting).status == 201
    [request] = [line for line in fields(caplog, REQUESTS) if line["request_id"] == "the-slow-one"]
    assert request["route"] == "/v1/transfers"
    assert request["total_ms"] >= request["database_ms"] >= SLOW_MS
    told = [line for line in fields(caplog, STATEMENTS) if line["statement"] == "transfer_post_many"]
    assert told[0]["items"] == 1
    assert told[0]["total_ms"] > SLOW_MS
    assert MARK not in caplog.text


def _transfer() -> dict[str, object]:
    return {"source": "world", "destination": MARK, "amount": 1, "currency": "EUR"}


async def test_a_sample(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every third request has exactly one line, whatever its outcome."""
    async with in_process(database_url, log_sample=3) as service:
        client = await service.client("sampled")
        with caplog.at_level(logging.INFO):
            for number in range(9):
                status = (await client.send("GET", f"/v1/{number}", headers={"X-Request-Id": f"r{number}"})).status
                assert status == 404
    assert [line["request_id"] for line in fields(caplog, REQUESTS)] == ["r2", "r5", "r8"]
