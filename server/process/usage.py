"""Reads the processor time and memory of a process, on Linux."""

import os
from pathlib import Path
from typing import Final, NamedTuple

# Positions in /proc/PID/stat, counted after the name of the program, which may hold anything: processor time in user
# and in kernel mode, in ticks, and resident pages.
_USER: Final = 11
_KERNEL: Final = 12
_PAGES: Final = 21


class Usage(NamedTuple):
    """The processor time a process has used since it started, and the memory it holds."""

    cpu_seconds: float
    resident_bytes: int


def usage(pid: int) -> Usage | None:
    """Return what a process uses, or None on other systems or if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[_USER]) + int(fields[_KERNEL])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(fields[_PAGES]) * os.sysconf("SC_PAGE_SIZE"))
