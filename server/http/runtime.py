"""Checks of the installed libraries, before the server may serve."""

from importlib.metadata import version
from typing import Final

from aiohttp.http import HttpRequestParser
from aiohttp.http_parser import HttpRequestParserPy

# Older versions have known bugs that lose requests or give data to the wrong connection (docs/decisions/0002).
LIBRARY_FLOORS: Final = {
    "aiohttp": (3, 14, 1),
    "asyncpg": (0, 32, 0),
    "redis": (8, 0, 1),
    "uvloop": (0, 23, 0),
}


def runtime_failures() -> list[str]:
    """Return the faults of this installation, one sentence each."""
    failures = []
    if HttpRequestParser is HttpRequestParserPy:
        failures.append("aiohttp's C parser is not active: its Python twin lets smuggled requests through")
    for library, floor in LIBRARY_FLOORS.items():
        installed = version(library)
        if tuple(int(part) for part in installed.split(".")[:3] if part.isdigit()) < floor:
            failures.append(f"{library} {installed} is older than {'.'.join(map(str, floor))}")
    return failures
