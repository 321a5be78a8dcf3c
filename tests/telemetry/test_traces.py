"""Sampled requests have spans, and a collector that is away does no harm."""

import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

from server.settings import SettingsError
from server.telemetry import otel
from server.telemetry.otel import QUEUE_MAX, TRACED_PER_SECOND_MAX, Traces
from server.telemetry.trace import Parent, Part, open_traces, read_traceparent
from tests.input.broken_http import MARK
from tests.support.service import BOUND_SECONDS, in_process
from tests.support.waiting import until
from tests.telemetry.collector import Collector, collecting, said

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00"
# No server listens there.
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Quiet as in `configure_logs`, because the sending thread may outlive its test for a moment."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that accepts everything."""
    async with collecting() as running:
        yield running


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        (SAMPLED, Parent(TRACE, SPAN, True)),
        (NOT_SAMPLED, Parent(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, True)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", Parent(TRACE, SPAN, True)),
        (f"{SAMPLED}-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (SAMPLED.upper(), None),
        (SAMPLED[:-1], None),
        (f" {SAMPLED}", None),
        ("", None),
    ],
)
def test_traceparent(text: str, parent: Parent | None) -> None:
    """A malformed traceparent is ignored."""
    assert read_traceparent(text) == parent


async def test_spans_of_a_posting(database_url: str, redis_url: str, collector: Collector) -> None:
    """
    A posting has a span under its caller's, and spans of gate, lane and database under that; none contains callers'
    data.
    """
    async with in_process(database_url, redis_url, otel_endpoint=collector.url, otel_sample=0) as service:
        client = await service.client("traced")
        await client.open("world", floor=None)
        await client.open(MARK)
        before = time.time_ns()
        body = {"source": "world", "destination": MARK, "amount": 1, "currency": "EUR", "description": MARK}
        headers = {"Idempotency-Key": MARK, "X-Request-Id": "traced-one", "traceparent": SAMPLED}
        answer = await client.send("POST", "/v1/transfers", body, headers=headers)
        assert answer.status == 201
        after = time.time_ns()
        for traceparent in (NOT_SAMPLED, "nonsense"):
            assert (await client.send("GET", "/v1/accounts/world", headers={"traceparent": traceparent})).status == 200
    spans = {span.name: span for span in collector.spans}
    assert len(spans) == len(collector.spans)
    assert spans.keys() == {"POST /v1/transfers", "gate", "lane", "database"}
    whole = spans.pop("POST /v1/transfers")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    assert client.token is not None
    assert said(whole) == {
        "http.request.method": "POST",
        "http.route": "/v1/transfers",
        "http.response.status_code": 201,
        "tallystick.request_id": "traced-one",
        "tallystick.key_id": client.token.split("_")[2],
    }
    assert before <= whole.start_time_unix_nano <= whole.end_time_unix_nano <= after
    for part in spans.values():
        assert (part.trace_id.hex(), part.parent_span_id) == (TRACE, whole.span_id)
        assert whole.start_time_unix_nano <= part.start_time_unix_nano
        assert part.end_time_unix_nano <= whole.end_time_unix_nano
    assert MARK.encode() not in b"".join(collector.bodies)
    assert ("service.name", "tallystick") in collector.resources


async def test_one_in_so_many(database_url: str, collector: Collector) -> None:
    """
    Of requests without a traceparent, every third begins a trace of its own, and spans are sent while the service runs.
    """
    async with in_process(database_url, otel_endpoint=collector.url, otel_sample=3) as service:
        client = await service.client("traced")
        for _ in range(9):
            assert (await client.get(f"/v1/accounts/{MARK}")).status == 404
        await until(lambda: len(collector.spans) > 0)
        assert service.app is not None
        traces = service.app.traces
        assert traces is not None
        await until(lambda: traces.sent == len(collector.spans))
    whole = [span for span in collector.spans if not span.parent_span_id]
    assert [span.name for span in whole] == ["GET /v1/accounts/{id}"] * 3
    assert len({span.trace_id for span in whole}) == 3
    assert MARK.encode() not in b"".join(collector.bodies)


@pytest.mark.parametrize("way", ["refused", "failing", "silent"])
async def test_a_collector_that_is_away(
    database_url: str, collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """
    Without a working collector, requests are answered, spans are dropped and counted, one line is logged, and the end
    is quick.
    """
    monkeypatch.setattr(otel, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(otel, "SEND_SECONDS", 0.1)
    if way == "silent":
        collector.open.clear()
    collector.status = 503
    url = NOWHERE if way == "refused" else collector.url
    with caplog.at_level(logging.WARNING, "server"):
        async with in_process(database_url, otel_endpoint=url, otel_sample=1) as service:
            client = await service.client("traced")
            assert service.app is not None
            traces = service.app.traces
            assert traces is not None
            for dropped in (0, 1):
                assert (await client.get("/v1/accounts/nobody")).status == 404
                await until(lambda dropped=dropped: traces.dropped > dropped)
            assert traces.sent == 0
            assert (await client.get("/v1/accounts/nobody")).status == 404
            ending = time.monotonic()
    assert time.monotonic() - ending < 2 * BOUND_SECONDS
    assert caplog.messages.count("the collector does not take spans: they are dropped") == 1


async def test_what_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are limited to a number a second, and spans beyond the queue's limit are dropped."""
    traces = Traces(NOWHERE, 1)
    chosen = [traces.wanted(SAMPLED, 5.0 + number / 10_000)[0] for number in range(3_000)]
    assert sum(chosen) == TRACED_PER_SECOND_MAX
    assert traces.dropped == 3_000 - TRACED_PER_SECOND_MAX
    monkeypatch.setattr(otel, "TRACED_PER_SECOND_MAX", 10 * QUEUE_MAX)
    for _ in range(2 * QUEUE_MAX):
        wanted, parent = traces.wanted(SAMPLED, 6.0)
        if wanted:
            traces.add(Part("whole", 5.0, 6.0), parent, {}, [], failed=False)
    assert traces.dropped > QUEUE_MAX
    await traces.close()


def test_off_it_is_not_loaded() -> None:
    """
    Without a collector, none of the modules that send spans is imported; redis-py imports another part of OpenTelemetry
    itself.
    """
    assert open_traces(None, 1) is None
    heavy = ("server.telemetry.otel", "opentelemetry.exporter", "opentelemetry.proto")
    program = (
        "import sys, server.app, server.process.worker, server.process.commands.supervise;"
        f"sys.exit(any(name in sys.modules for name in {heavy}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a collector is configured and the packages are missing, the error names them."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "server.telemetry.otel")
    with pytest.raises(SettingsError, match=r"tallystick\[otel\]"):
        open_traces(NOWHERE, 1)
