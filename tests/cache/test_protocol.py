"""No interleaving shows anybody an account that is older than it may be, and each part of the protocol is needed."""

import pytest

from tests.cache.protocol import Rules, Violation, search, start


@pytest.mark.parametrize(
    ("writers", "readers", "reads", "accidents"),
    [
        pytest.param(3, 2, 1, 1, id="three writers, two readers"),
        pytest.param(2, 2, 2, 1, id="two writers, two readers who come again"),
        pytest.param(1, 3, 1, 2, id="a writer among three readers"),
    ],
)
def test_nobody_is_shown_the_past(writers: int, readers: int, reads: int, accidents: int) -> None:
    """
    Over every interleaving of commits, crashes, retries, reads, fills and losses: a read that begins after an
    acknowledgement shows it, and no client's version goes back.
    """
    assert search(start(writers, readers, reads, accidents), Rules()) > 1_000


@pytest.mark.parametrize("part", Rules._fields)
def test_each_part_is_needed(part: str) -> None:
    """As soon as one part of the protocol is left out, some interleaving shows the past."""
    with pytest.raises(Violation):
        search(start(2, 2, 2, 1), Rules(**{part: False}))
