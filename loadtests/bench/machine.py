"""What a run was made on: facts that decide figures, and nothing that names the machine or its owner."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

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
    """Return the machine and the versions that are measured, by what they are."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    found = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()} ({platform.python_compiler()})",
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        **{name: _said(str(path), "--version") for name, path in programs().items()},
    }
    code = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    found["peer"] = _said(str(peer_python), "-c", code, *PEER_PACKAGES)
    return found


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return " ".join(next(models, platform.machine()).split())


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS_MAX
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
