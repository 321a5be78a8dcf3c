"""A caller's shell: commands against the service, with a key of this test's ledger in the environment."""

from typing import Any, cast

import orjson
import pytest

from tests.support.client import Client
from tests.support.command import Ended, call
from tests.support.service import Service


class Shell:
    """
    Runs commands.

    Args:
        url: The address of the server.

        token: The key.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token

    async def run(self, *words: str, **variables: str) -> Ended:
        """Run a command to its end; *variables* are further environment variables, without the prefix."""
        return await call(*words, **{"url": self.url, "api_key": self.token, **variables})

    async def done(self, *words: str) -> str:
        """Run a command that must succeed, and return its output."""
        end = await self.run(*words)
        assert (end.code, end.err) == (0, ""), end
        return end.out

    async def json(self, *words: str) -> Any:
        """Run a command with `--json`, and return its decoded output."""
        return orjson.loads(await self.done(*words, "--json"))

    async def record(self, *words: str) -> dict[str, str]:
        """Run a command that prints a record, and return its lines by name."""
        lines = (await self.done(*words)).splitlines()
        return {line.split()[0]: line.partition(" ")[2].strip() for line in lines}

    async def rows(self, *words: str) -> list[list[str]]:
        """Run a command that prints a table, and return its cells without the headings."""
        return [line.split() for line in (await self.done(*words)).splitlines()[1:]]


@pytest.fixture
def shell(service: Service, client: Client) -> Shell:
    """A shell with an admin key of this test's ledger."""
    return Shell(service.url, cast(str, client.token))


@pytest.fixture
async def books(shell: Shell) -> Shell:
    """The shell, whose ledger has `world`, which may fall below zero, and `alice`, which may not."""
    await shell.done("accounts", "create", "world", "EUR", "--floor", "none")
    await shell.done("accounts", "create", "alice", "EUR")
    return shell
