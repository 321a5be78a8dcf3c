"""CPU time by what used it, out of /proc: servers are told apart by the names of their programs."""

import os
from collections.abc import Iterable
from pathlib import Path

from loadtests.own_server import family

# Names of processes and what they stand for; everything else is the server itself.
KINDS = {"postgres": "postgres", "valkey-server": "redis", "redis-server": "redis"}
_TICKS = os.sysconf("SC_CLK_TCK")

# Seconds of user and of system time, by kind.
Times = dict[str, tuple[float, float]]


def times(roots: Iterable[int]) -> Times:
    """Return the CPU time that these processes and all they have started have used so far."""
    found: Times = {}
    for pid in {pid for root in roots for pid in family(root)}:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        user, system = found.get(KINDS.get(name, "server"), (0.0, 0.0))
        # With what children have used that have ended since: a PostgreSQL has one a connection.
        ticks = [int(field) for field in fields[11:15]]
        found[KINDS.get(name, "server")] = (
            user + (ticks[0] + ticks[2]) / _TICKS,
            system + (ticks[1] + ticks[3]) / _TICKS,
        )
    return found


def used(before: Times, after: Times) -> dict[str, list[float]]:
    """Return what was used in between."""
    zero = (0.0, 0.0)
    return {
        kind: [round(late - early, 3) for late, early in zip(total, before.get(kind, zero), strict=True)]
        for kind, total in sorted(after.items())
    }


def threads(pid: int) -> list[int]:
    """Return the threads of a process, none when it has ended."""
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
