"""How many connections to PostgreSQL the processes of a server open."""

from typing import Final

# Connections of the embedded PostgreSQL that the server may use: `max_connections` minus those for commands that run
# beside it and those reserved for the superuser.
EMBEDDED_CONNECTIONS_MAX: Final = 180

# Connections of the background process for posting and for reading. Few are enough: it sends one batch after another,
# and no caller waits for an answer.
BACKGROUND_POSTING: Final = 2
BACKGROUND_READING: Final = 2
# All connections of the background process; the other three are those of the leader, the relay and the auditor.
BACKGROUND_CONNECTIONS: Final = BACKGROUND_POSTING + BACKGROUND_READING + 3

# Connections of the console, from its first look-up on.
CONSOLE_POSTING: Final = 1
CONSOLE_READING: Final = 2
CONSOLE_CONNECTIONS: Final = CONSOLE_POSTING + CONSOLE_READING


def connections_max(posting: int, reading: int, workers: int, *, background: bool) -> int:
    """Return how many connections a server has at most; during a swap one more process of each kind may run."""
    of_background = 2 * BACKGROUND_CONNECTIONS if background else 0
    return (workers + 1) * (posting + reading) + of_background + 2 * CONSOLE_CONNECTIONS


def share_connections(posting: int, reading: int, workers: int) -> tuple[int, int]:
    """Return the pool sizes of one worker, reduced if the embedded PostgreSQL could not take all connections."""
    each = (EMBEDDED_CONNECTIONS_MAX - 2 * (BACKGROUND_CONNECTIONS + CONSOLE_CONNECTIONS)) // (workers + 1)
    if posting + reading <= each:
        return posting, reading
    share = min(max(1, each * posting // (posting + reading)), each - 1)
    return share, each - share
