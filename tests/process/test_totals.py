"""What workers report arrives whole, and adds up whoever ends meanwhile."""

import asyncio
import socket
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from server.process.channel import Channel, Counted, ToChild, ToSupervisor, Value
from server.process.reporter import VALUES_MAX, Reporter, values_of
from server.process.reporting import report
from server.process.scrape import text
from server.process.totals import Counts, Totals
from server.telemetry.metrics import METRICS as NAMED
from server.telemetry.metrics import Metric, Sample
from tests.support.service import Service
from tests.support.waiting import until

METRICS = {
    "tests_made_total": Metric("counter", "Made.", ("by",)),
    "tests_open": Metric("gauge", "Open."),
    "tests_seconds": Metric("histogram", "Took.", (), (1.0, 2.0)),
}
OTHER_BOUNDS = {"tests_seconds": Metric("histogram", "Took.", (), (1.0, 5.0))}
# More than a socket holds.
REPORTS = 200


def worker(made: int, *, open_now: int, took: tuple[float, ...], metrics: dict[str, Metric]) -> Counts:
    """What a worker has reported."""
    counts = Counts()
    values = (
        Value("tests_made_total", ("hand",), (made,)),
        Value("tests_open", (), (open_now,)),
        Value("tests_seconds", (), took),
    )
    counts.update(Counted(values, {**METRICS, **metrics}))
    return counts


def shown(totals: Totals) -> dict[tuple[str, str], float]:
    """What is scraped of them, by the name of the series and the value of its label."""
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text(totals, {}).decode())
        for sample in family.samples
    }


def test_workers_add_up() -> None:
    """Counters and histograms of all workers are added, by their bounds; one that has ended has no gauges."""
    first = worker(3, open_now=1, took=(1, 2, 0, 4.5), metrics={})
    second = worker(4, open_now=2, took=(1, 1, 1, 14.0), metrics=OTHER_BOUNDS)
    running, one_left = Totals(), Totals()
    running.add(first)
    running.add(second)
    counted = {
        ("tests_made_total", "hand"): 7,
        ("tests_seconds_bucket", "1.0"): 2,
        ("tests_seconds_bucket", "2.0"): 4,
        ("tests_seconds_bucket", "5.0"): 5,
        ("tests_seconds_bucket", "+Inf"): 6,
        ("tests_seconds_count", ""): 6,
        ("tests_seconds_sum", ""): 18.5,
    }
    assert shown(running) == {**counted, ("tests_open", ""): 3}
    one_left.add(first, has_ended=True)
    assert shown(one_left) == {
        ("tests_made_total", "hand"): 3,
        ("tests_seconds_bucket", "1.0"): 1,
        ("tests_seconds_bucket", "2.0"): 3,
        ("tests_seconds_bucket", "+Inf"): 3,
        ("tests_seconds_count", ""): 3,
        ("tests_seconds_sum", ""): 4.5,
    }
    one_left.add(second)
    assert shown(one_left) == {**counted, ("tests_open", ""): 2}


def samples(number: int) -> Iterator[Sample]:
    """More of them than one message holds."""
    for code in range(2 * VALUES_MAX):
        yield Sample("tallystick_problems_total", (f"code_{code}",), number)


async def test_the_last_report(service: Service) -> None:
    """What a worker has counted since its last report is in one more, when it ends."""
    assert service.app is not None
    left, right = socket.socketpair()
    worker: Channel[ToChild] = Channel(left, ToChild)
    supervisor: Channel[ToSupervisor] = Channel(right, ToSupervisor)
    counts = Counts()

    def handle(message: ToSupervisor) -> None:
        assert isinstance(message, Counted)
        counts.update(message)

    def answered() -> float:
        name, labels = "tallystick_request_duration_seconds", ("GET", "/livez", "200")
        return sum(counts.values.get((name, labels), (0,))[:-1])

    supervisor.listen(handle, lambda: None)
    async with service.session.get(f"{service.url}/livez"):
        reporting = asyncio.create_task(report(service.app, worker))
        await until(lambda: answered() > 0)
    before = answered()
    for _ in range(3):
        async with service.session.get(f"{service.url}/livez") as response:
            assert response.status == 200
    reporting.cancel()
    await asyncio.gather(reporting, return_exceptions=True)
    supervisor.read_all()
    assert answered() == before + 3
    worker.close()
    supervisor.close()


async def test_a_supervisor_that_does_not_listen() -> None:
    """What the channel does not take is made good by the next report that it takes, and no message is broken."""
    left, right = socket.socketpair()
    # A message has to wait for its last part.
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    worker: Channel[ToChild] = Channel(left, ToChild)
    supervisor: Channel[ToSupervisor] = Channel(right, ToSupervisor)
    counts = Counts()
    handled = 0

    def handle(message: ToSupervisor) -> None:
        nonlocal handled
        assert isinstance(message, Counted)
        assert all(counts.values.get((name, labels), (-1,)) < numbers for name, labels, numbers in message.values)
        counts.update(message)
        handled += 1

    supervisor.listen(handle, lambda: None)
    reporter = Reporter(worker.send)
    for number in range(REPORTS):
        reporter.report(values_of(samples(number)), NAMED)
    supervisor.read_all()
    assert 0 < handled < REPORTS
    for _ in range(REPORTS):
        reporter.report(values_of(samples(REPORTS)), NAMED)
        supervisor.read_all()
    assert counts.values == {(name, labels): (REPORTS,) for name, labels, _ in samples(0)}
    worker.close()
    supervisor.close()


async def test_what_is_gone() -> None:
    """A report of all there are removes what it does not name, until it is there again."""
    left, right = socket.socketpair()
    process: Channel[ToChild] = Channel(left, ToChild)
    supervisor: Channel[ToSupervisor] = Channel(right, ToSupervisor)
    counts = Counts()

    def handle(message: ToSupervisor) -> None:
        assert isinstance(message, Counted)
        counts.update(message)

    supervisor.listen(handle, lambda: None)
    reporter = Reporter(process.send)
    for names in (["old", "new"], ["new"], ["new"], ["old"]):
        lags = [Sample("tallystick_sink_lag_events", (name,), 1) for name in names]
        reporter.report(values_of(lags), NAMED, whole=True)
        supervisor.read_all()
        assert [labels for _, labels in counts.values] == [(name,) for name in names]
    process.close()
    supervisor.close()
