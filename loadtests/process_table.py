"""What the system tells of processes: who has started them, their memory, CPU time and threads."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

# `ps` reads one line about every process.
PS_SECONDS_MAX = 5.0
# Names of processes and what they stand for; everything else is the server itself.
CPU_KINDS = {"postgres": "postgres", "valkey-server": "redis", "redis-server": "redis"}
_CPU_TICKS = os.sysconf("SC_CLK_TCK")

# Seconds of user and of system time, by kind.
Times = dict[str, tuple[float, float]]


def family(root: int) -> list[int]:
    """Return a process and all that it and those have started."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [root]
    for member in found:
        found += children.get(member, [])
    return found


def _parents() -> list[tuple[int, int]]:
    if platform.system() == "Linux":
        pairs = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; the parent comes second behind it.
                parent = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
                pairs.append((int(status.parent.name), int(parent)))
        return pairs
    command = ["ps", "-A", "-o", "pid=,ppid="]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=PS_SECONDS_MAX, check=False).stdout
    return [(int(child), int(parent)) for child, parent in (line.split() for line in listed.splitlines())]


def command_line(pid: int) -> list[str]:
    """Return the words that a process was started with, on Linux; none when it has ended."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [word for word in text.split("\0") if word]


def threads(pid: int) -> list[int]:
    """Return the threads of a process, on Linux; none when it has ended."""
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def keep_to(cores: set[int], pids: Sequence[int]) -> None:
    """Let processes run on some cores only, on Linux."""
    for pid in pids:
        for thread in threads(pid):
            os.sched_setaffinity(thread, cores)


def cpu_times(roots: Sequence[int]) -> Times:
    """Return the CPU time that these processes and all they have started have used so far."""
    found: Times = {}
    for pid in {pid for root in roots for pid in family(root)}:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        user, system = found.get(CPU_KINDS.get(name, "server"), (0.0, 0.0))
        # With what children have used that have ended since: a PostgreSQL has one a connection.
        ticks = [int(field) for field in fields[11:15]]
        found[CPU_KINDS.get(name, "server")] = (
            user + (ticks[0] + ticks[2]) / _CPU_TICKS,
            system + (ticks[1] + ticks[3]) / _CPU_TICKS,
        )
    return found


def cpu_used(before: Times, after: Times) -> dict[str, list[float]]:
    """Return what was used in between."""
    zero = (0.0, 0.0)
    return {
        kind: [round(late - early, 3) for late, early in zip(total, before.get(kind, zero), strict=True)]
        for kind, total in sorted(after.items())
    }


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use, where the system tells (Linux); 0 elsewhere, and for no process."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
