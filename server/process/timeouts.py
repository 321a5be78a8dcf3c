"""Time-outs and delays of the supervisor."""

from typing import Final, NamedTuple

# Factor between two delays before a restart, and the exponent at which it stops growing.
BACK_OFF_FACTOR: Final = 2.0
BACK_OFF_EXPONENT_MAX: Final = 10


class Timeouts(NamedTuple):
    """Time-outs and delays of the supervisor, in seconds."""

    # For a child to start: it takes half a second, and much longer on a machine that starts everything at once.
    start: float = 30.0
    # Without a message from a child, which sends one a second: its loop is stuck or the process is stopped.
    silence: float = 10.0
    # For a worker to end: it waits for idle connections, running requests, postings and pools, each with its own bound.
    end: float = 30.0
    # For the background or the admin process to end: no caller waits for a job, and the next leader finishes it.
    end_background: float = 10.0
    # Before a restart: short at first, then long enough to cost little if a worker dies at every start.
    restart_first: float = 0.1
    restart_max: float = 10.0
    # After a child has served for this long, its next failure counts as the first one.
    stable: float = 30.0

    def restart(self, failures: int) -> float:
        """Return the delay before the restart of a child that has failed *failures* times in a row."""
        delay = self.restart_first * BACK_OFF_FACTOR ** min(failures - 1, BACK_OFF_EXPONENT_MAX)
        return min(delay, self.restart_max)


TIMEOUTS: Final = Timeouts()
