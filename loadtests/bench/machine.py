"""Describes the machine of a run: facts that decide figures, and nothing that identifies the machine or its owner."""

import os
import platform
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil

from loadtests.databases import programs
from loadtests.processes import PROJECT

PACKAGES = ("aiohttp", "asyncpg", "hiredis", "msgspec", "redis", "uvloop")
PEER_PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "limits", "redis", "asyncpg", "httptools", "uvloop")
COMMAND_SECONDS_MAX = 30.0
GIB = 1024**3


def commit() -> str:
    found = _said("git", "rev-parse", "--verify", "--quiet", "HEAD")[:12]
    changed = _said("git", "status", "--porcelain", "--untracked-files=no", "--", "server", "sql", "loadtests")
    return f"{found} with changes" if found and changed else found or "unknown"


def facts(peer_python: Path) -> dict[str, str]:
    """Return the facts of the machine and the versions of the measured software."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    versions = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return {
        "CPU": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / GIB:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()} ({platform.python_compiler()})",
        "packages": _said(sys.executable, "-c", versions, *PACKAGES),
        **{name: _said(str(path), "--version") for name, path in programs().items()},
        "peer": _said(str(peer_python), "-c", versions, *PEER_PACKAGES),
    }


def _said(*command: str) -> str:
    run = partial(subprocess.run, cwd=PROJECT, capture_output=True, text=True, check=False)
    try:
        return run(command, timeout=COMMAND_SECONDS_MAX).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
