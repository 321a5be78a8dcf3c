"""What processes load when they start, and what not: it costs each of them time and memory."""

import subprocess
import sys

import pytest

# By the module that the process runs: beginnings of names that are not loaded with it.
NOT_LOADED = {
    # It serves nobody, and has no database where one is named: nothing of them can hold it up.
    "server.process.commands.supervise": (
        *("aiohttp", "asyncpg", "redis", "server.app", "server.ledger", "server.process.console"),
        *("server.process.embedded.postgres", "server.store.postgres"),
    ),
    "server.process.admin": (
        *("asyncpg", "prometheus_client", "redis", "server.app", "server.ledger"),
        *("server.process.embedded.postgres", "server.store.postgres"),
    ),
    "server.checked_settings": ("aiohttp", "httpx", "prometheus_client", "redis", "server.app"),
    "server.process.commands.operate": ("aiohttp", "httpx", "redis", "server.app", "server.process.embedded.postgres"),
    "server.process.commands.keys": ("aiohttp", "httpx", "redis", "server.app"),
    "server.process.worker": ("httpx", "prometheus_client", "server.process.embedded.postgres"),
    "server.process.background": ("httpx", "prometheus_client", "server.app", "server.process.embedded.postgres"),
}


@pytest.mark.parametrize("program", NOT_LOADED)
def test_a_process_loads_what_it_needs(program: str) -> None:
    """The rest is not even loaded."""
    source = f"import sys, {program}; print(*(name for name in sys.modules if name.startswith({NOT_LOADED[program]})))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
