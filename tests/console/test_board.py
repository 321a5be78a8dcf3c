"""What the console makes of the numbers of all processes."""

import math
from collections import Counter

import pytest

from server.process.channel import Counted, Value
from server.process.console.changes import Changes, quantile
from server.process.totals import Counts, Totals
from server.telemetry.metrics import METRICS

REQUESTS = "tallystick_request_duration_seconds"


def totals(*values: Value) -> Totals:
    """Of one process that has reported these."""
    counts, found = Counts(), Totals()
    counts.update(Counted(values, {value.name: METRICS[value.name] for value in values}))
    found.add(counts)
    return found


def took(status: str, *counts: float) -> Value:
    """How many requests took how long; those of the other buckets are zero."""
    bounds = len(METRICS[REQUESTS].bounds) + 1
    return Value(REQUESTS, ("GET", "/v1/accounts", status), (*counts, *([0.0] * (bounds - len(counts))), 1.0))


def test_rates() -> None:
    """A counter's growth is told by the second, and what does not grow is left out."""
    changes = Changes()
    assert not changes.begin(totals(took("200", 10), took("404", 3)), 1.0)
    assert changes.begin(totals(took("200", 30), took("404", 3), took("409", 5)), 2.0)
    assert changes.sums(REQUESTS, 2) == {"200": 10.0, "409": 2.5}


def test_a_process_that_crashed() -> None:
    """What it took along is no negative rate."""
    changes = Changes()
    changes.begin(totals(took("200", 10)), 1.0)
    changes.begin(totals(took("200", 4)), 1.0)
    assert changes.sums(REQUESTS, 2) == {}


@pytest.mark.parametrize(
    ("cells", "share", "value"),
    [
        pytest.param({}, 0.5, None, id="nothing"),
        pytest.param({1.0: 10, 2.0: 0, math.inf: 0}, 0.5, 0.5, id="the middle of a bucket"),
        pytest.param({1.0: 50, 2.0: 50, math.inf: 0}, 0.5, 1.0, id="the border of two"),
        pytest.param({1.0: 50, 2.0: 50, math.inf: 0}, 0.99, 1.98, id="near the end of the last"),
        pytest.param({1.0: 0, 2.0: 0, math.inf: 5}, 0.5, 2.0, id="above all bounds it is the last"),
    ],
)
def test_quantiles(cells: dict[float | None, float], share: float, value: float | None) -> None:
    """They are exact to a bucket, and values are spread evenly in it."""
    found = quantile(Counter(cells), share)
    assert found == value if value is None else found == pytest.approx(value)
