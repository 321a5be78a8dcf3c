"""How long the supervisor waits for its workers."""

from typing import Final, NamedTuple

# How much longer each wait for a restart is than the one before it, up to the longest.
BACK_OFF_FACTOR: Final = 2.0
BACK_OFF_EXPONENT_MAX: Final = 10


class Patience(NamedTuple):
    """How long the supervisor waits for what, in seconds."""

    # Until a worker serves. It takes half a second, and much longer on a machine that starts everything at once.
    start: float = 30.0
    # Without a sign of life, of which a worker gives one a second: its loop is stuck, or the process is stopped.
    silence: float = 10.0
    # Until a worker told to end has ended: the idle connections' time, the running requests', the postings' and the
    # pools', each of which is bounded by itself.
    end: float = 30.0
    # Before a worker that died is started again: hardly noticed the first time, and no load when it dies at each start.
    restart_first: float = 0.1
    restart_max: float = 10.0
    # A worker that served this long died of something new.
    stable: float = 30.0

    def restart(self, failures: int) -> float:
        """Return the seconds before a worker is started again that has failed so often in a row."""
        delay = self.restart_first * BACK_OFF_FACTOR ** min(failures - 1, BACK_OFF_EXPONENT_MAX)
        return min(delay, self.restart_max)


PATIENCE: Final = Patience()
