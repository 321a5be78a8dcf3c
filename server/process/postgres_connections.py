"""How many connections to PostgreSQL the processes of a server have."""

from typing import Final

# Of the embedded PostgreSQL for the server: `max_connections` without those of commands that run beside it and those
# reserved for the superuser.
EMBEDDED_CONNECTIONS_MAX: Final = 180

# Of the background process: those that post and those that read. Batches follow one another there, and nobody waits for
# an answer.
BACKGROUND_POSTING: Final = 2
BACKGROUND_READING: Final = 2
# All of them, with the one by which it leads and those of the relay and of the auditor.
BACKGROUND_CONNECTIONS: Final = BACKGROUND_POSTING + BACKGROUND_READING + 3

# Of the console, from its first look-up on.
CONSOLE_POSTING: Final = 1
CONSOLE_READING: Final = 2
CONSOLE_CONNECTIONS: Final = CONSOLE_POSTING + CONSOLE_READING


def connections_max(posting: int, reading: int, workers: int, *, background: bool) -> int:
    """Return how many connections a server has at most: during a swap there is one process more of a kind."""
    of_background = 2 * BACKGROUND_CONNECTIONS if background else 0
    return (workers + 1) * (posting + reading) + of_background + 2 * CONSOLE_CONNECTIONS


def share_connections(posting: int, reading: int, workers: int) -> tuple[int, int]:
    """Return the pool sizes of one worker, made smaller where the embedded server could not take all of them."""
    each = (EMBEDDED_CONNECTIONS_MAX - 2 * (BACKGROUND_CONNECTIONS + CONSOLE_CONNECTIONS)) // (workers + 1)
    if posting + reading <= each:
        return posting, reading
    share = min(max(1, each * posting // (posting + reading)), each - 1)
    return share, each - share
