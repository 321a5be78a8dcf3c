"""No interleaving shows a client an account that is older than allowed, and each part of the protocol is needed."""

import pytest

from tests.cache.protocol import State, Violation, search, start
from tests.cache.scripts import Rules

# There is only one worker, because while a worker is cut off from a Redis that others reach, the others may show what
# it could not remove for as long as a snapshot lives.
CUT = start(2, 2, 1, losses=1, cuts=1)


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(start(3, 2, 1, losses=1), id="three writers, two readers"),
        pytest.param(start(2, 2, 2, losses=1), id="two writers, two readers who come again"),
        pytest.param(start(1, 3, 1, losses=2), id="a writer among three readers"),
        pytest.param(CUT, id="a worker that is cut off"),
        pytest.param(start(2, 2, 1, restarts=1, workers=2), id="a restart under two workers"),
        pytest.param(start(1, 2, 2, losses=1, restarts=1, workers=2), id="a restart after a loss, readers come again"),
        pytest.param(start(2, 1, 2, restarts=1, workers=3), id="a restart under three workers"),
        pytest.param(start(1, 2, 1, restarts=2, workers=2), id="two restarts"),
        pytest.param(start(1, 2, 2, losses=1, ends=1, workers=2), id="a run of Postgres ends under two workers"),
        pytest.param(start(1, 2, 1, losses=1, ends=2, workers=2), id="two runs end"),
    ],
)
def test_nobody_is_shown_the_past(beginning: State) -> None:
    """
    A read that begins after an acknowledgement shows it, and no client's version goes back within a run or to an
    earlier run. This holds in every interleaving of commits, crashes, retries, reads, fills and losses; of restarts
    that empty Redis or bring back old data, which workers notice one after the other; and of runs of Postgres that end
    and are followed by the same history or an older copy.
    """
    assert search(beginning) > 1_000


@pytest.mark.parametrize("part", Rules._fields)
def test_each_part_is_needed(part: str) -> None:
    """Without any single part of the protocol, some interleaving shows an older state."""
    ended = start(1, 2, 2, losses=1, ends=1, workers=2)
    beginnings = (ended, start(2, 2, 2, losses=1), start(1, 1, 2, losses=1, restarts=1, workers=2), CUT)
    rules = Rules(**{part: False})
    assert any(finds_violation(beginning, rules) for beginning in beginnings)


def finds_violation(beginning: State, rules: Rules) -> bool:
    """Whether some interleaving shows an older state."""
    try:
        search(beginning, rules)
    except Violation:
        return True
    return False
