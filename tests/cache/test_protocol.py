"""No interleaving shows anybody an account that is older than it may be, and each part of the protocol is needed."""

import pytest

from tests.cache.protocol import State, Violation, search, start
from tests.cache.scripts import Rules

# A worker is cut off from a Redis that others reach: what it could not remove may be shown by the others for as long
# as a snapshot lives, so there are no others here.
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
    Over every interleaving of commits, crashes, retries, reads, fills and losses, of restarts that empty Redis or
    bring back old data, and of workers that notice them one after the other, of runs of Postgres that end and are
    followed by the same history or an older copy: a read that begins after an acknowledgement shows it, and no client's
    version goes back within a run, nor to an earlier one.
    """
    assert search(beginning) > 1_000


@pytest.mark.parametrize("part", Rules._fields)
def test_each_part_is_needed(part: str) -> None:
    """As soon as one part of the protocol is left out, some interleaving shows the past."""
    ended = start(1, 2, 2, losses=1, ends=1, workers=2)
    beginnings = (ended, start(2, 2, 2, losses=1), start(1, 1, 2, losses=1, restarts=1, workers=2), CUT)
    rules = Rules(**{part: False})
    assert any(finds_violation(beginning, rules) for beginning in beginnings)


def finds_violation(beginning: State, rules: Rules) -> bool:
    """Whether some interleaving shows the past."""
    try:
        search(beginning, rules)
    except Violation:
        return True
    return False
