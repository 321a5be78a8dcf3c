"""The open connections of a server: their number, its maximum, and whether the server still takes work."""

import resource

from server.http.limits import CONNECTIONS_MAX, FILES_RESERVED


class Connections:
    """
    The state that all connections of a server share.

    Args:
        count_max: The most connections that may be open; any further one is refused.

    Attributes:
        count_max: As given.

        count: How many connections are open.

        draining: Set when the server takes no new work: every reply then closes its connection.
    """

    def __init__(self, count_max: int) -> None:
        self.count_max = count_max
        self.count = 0
        self.draining = False

    @property
    def too_many(self) -> bool:
        """Whether the newest connection has to be refused."""
        return self.count > self.count_max


def connections_max() -> int:
    """Raise this process's limit of open files as far as needed and allowed; return how many connections fit in it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_RESERVED
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return min(CONNECTIONS_MAX, wanted - FILES_RESERVED)
