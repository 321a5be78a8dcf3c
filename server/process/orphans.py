"""Collects orphans: process 1 of a container becomes the parent of every orphan and must collect its exit status."""

import os
import subprocess
from collections.abc import Iterable
from typing import Final

# Most ended processes collected in one call; the next call collects the rest.
COLLECTED_MAX: Final = 1_000


def collect_orphans(own: "Iterable[subprocess.Popen[bytes]]") -> None:
    """
    If this is process 1, collect ended processes that it did not start.

    Args:
        own: Its own children; their exit statuses are kept for the code that waits for them.
    """
    if os.getpid() != 1:
        return
    children = {process.pid: process for process in own}
    for _ in range(COLLECTED_MAX):
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        child = children.get(ended.si_pid)
        if child is None:
            os.waitpid(ended.si_pid, os.WNOHANG)
        else:
            child.poll()
