"""The throughput that a lane measures from batches with given times."""

import pytest

from server.store.throughput import Throughput

EXPECTED = 16_000.0


def measured(batches: list[tuple[int, float, float]]) -> float:
    """
    Return the weight a second after batches, each given as its weight and the seconds at which it began and ended.
    """
    throughput = Throughput(EXPECTED, telling=250)
    for weight, began, ended in batches:
        throughput.ended(weight, began, ended)
    return throughput.per_second


@pytest.mark.parametrize(
    ("batches", "per_second"),
    [
        pytest.param([], EXPECTED, id="what is expected, before any batch"),
        pytest.param([(1, n, n + 0.9) for n in range(50)], EXPECTED, id="light batches tell nothing"),
        pytest.param([(500, n, n + 0.1) for n in range(50)], 5_000, id="one after the other, with pauses"),
        pytest.param([(500, 0.1 * n, 0.1 * n + 0.2) for n in range(50)], 5_000, id="two at a time"),
        pytest.param(
            [(500, n, n + 0.1) for n in range(50)] + [(500, n, n + 0.01) for n in range(60, 110)],
            50_000,
            id="the last ones count",
        ),
    ],
)
def test_throughput(batches: list[tuple[int, float, float]], per_second: float) -> None:
    """Time in which batches overlap counts once, and old batches no longer count."""
    assert measured(batches) == pytest.approx(per_second, rel=0.1)
