"""What the admin process knows of others: all of a moment or nothing of it, however much its channel takes."""

import itertools
import random
from collections.abc import Callable, Iterator

from server.process.channel import Counted, Hot, HotAccount, Place, Status, Told, Value
from server.process.forwarding import Forwarding
from server.process.mirror import Mirror
from server.process.totals import Counts, Totals
from server.telemetry.metrics import Metric

METRICS = {
    "tests_made_total": Metric("counter", "Made.", ("by",)),
    "tests_open": Metric("gauge", "Open."),
    "tests_seconds": Metric("histogram", "Took.", (), (1.0, 2.0)),
}
OTHER_BOUNDS = {"tests_seconds": Metric("histogram", "Took.", (), (1.0, 5.0))}
PLACES = (Place("1", True, 1, "serving", 0, 0.0),)


def report(counts: Counts, made: int, metrics: dict[str, Metric] | None = None) -> None:
    """Have a process report."""
    values = [Value("tests_made_total", (f"hand {hand}",), (made,)) for hand in range(250)]
    values += [Value("tests_open", (), (made,)), Value("tests_seconds", (), (made, 0, 0, made))]
    counts.update(Counted(tuple(values), {**METRICS, **(metrics or {})}))
    counts.hot = Hot((HotAccount(1, "alice", made),))


def sums(*sources: Counts) -> dict[str, object]:
    """Return all sums of these."""
    totals = Totals()
    for source in sources:
        totals.add(source)
    return {name: {labels: dict(cells) for labels, cells in found.items()} for name, found in totals.series.items()}


def refusing(mirror: Mirror, choices: Iterator[bool]) -> Callable[[Told | Status], bool]:
    """Return a way to the mirror that takes messages as it is told."""

    def send(message: Told | Status) -> bool:
        if not next(choices):
            return False
        mirror.handle(message)
        return True

    return send


async def test_a_channel_that_is_full() -> None:
    """What is known is always what was true at one moment, and at the end it is what is true now."""
    chosen = random.Random(1)
    mirror = Mirror(lambda _: True)
    told: list[dict[str, object]] = []
    mirror.on_status = lambda: told.append(known(mirror))
    forwarding = Forwarding(refusing(mirror, iter(lambda: chosen.random() < 0.7, None)))
    ended, first, second = Counts(), Counts(), Counts()
    moments: list[dict[str, object]] = []
    sources: dict[int, Counts] = {}
    for made in range(60):
        sources = {0: ended, 1: first, 2: second}
        report(first, made)
        report(second, 2 * made, OTHER_BOUNDS)
        if made >= 30:
            # The second one has ended: what it had counted is in the sum of the ended.
            report(ended, 58, OTHER_BOUNDS)
            del sources[2]
        moments.append(sums(*sources.values()))
        forwarding.tell(sources, Status(tuple(sources), PLACES, {"serving": len(sources)}))
    assert 5 < len(told) < 60
    assert all(one in moments for one in told)
    while known(mirror) != moments[-1]:
        forwarding.tell(sources, Status(tuple(sources), PLACES, {}))
    assert [account.transfers for account in mirror.hot_accounts()] == [59 + 58]


def known(mirror: Mirror) -> dict[str, object]:
    """Return all sums that the admin process knows."""
    return {
        name: {labels: dict(cells) for labels, cells in found.items()} for name, found in mirror.totals().series.items()
    }


async def test_bounds_that_change() -> None:
    """A histogram of another release has other bounds: the sum of those that have ended has all of them."""
    one, other, ended = Counts(), Counts(), Totals()
    report(one, 3)
    report(other, 4, OTHER_BOUNDS)
    mirror = Mirror(lambda _: True)
    forwarding = Forwarding(refusing(mirror, itertools.repeat(True)))
    for counts in (one, other):
        ended.add(counts, has_ended=True)
        forwarding.tell({0: ended.counts()}, Status((0,), PLACES, {}))
        assert mirror.totals().series == ended.series
    assert ended.counts().metrics["tests_seconds"].bounds == (1.0, 2.0, 5.0)
