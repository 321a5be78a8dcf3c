"""How many files this process may have open, of which each connection is one."""

import resource

# Files that are no connections.
OTHERS = 128


class TooManyFilesError(Exception):
    """The system does not allow so many connections."""


def allow_files(connections: int) -> None:
    """
    Let this process have so many connections.

    Raises:
        TooManyFilesError: The hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHERS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise TooManyFilesError(f"{connections} connections need {wanted} files; the limit is {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
