"""Runs `tallystick background` as a separate process, and counts leaders."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import aiohttp

from loadtests.processes import free_port
from tests.support.command import NO_REDIS, environment
from tests.support.postgres import administer
from tests.support.service import REDIS_PATIENCE_MS
from tests.support.waiting import until

START_SECONDS = 30.0
END_SECONDS = 30.0
# Log lines of a process that becomes the leader, and of one that learns that another process leads.
LEADS = "the background process leads"
WAITS = "the background process waits: another process leads"


async def leaders(database_url: str) -> int:
    """Return how many sessions hold the leader's lock in the database."""
    rows = await administer(
        database_url,
        """
        SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = 'tallystick-leader'
            AND a.datname = current_database()
        """,
    )
    return len(rows)


class BackgroundProcess:
    """
    `tallystick background` as a child process.

    Args:
        database_url: The address of Postgres.

        log: The file for its standard error.

        redis_url: The address of Redis; by default Redis is unavailable.

        variables: More environment variables.
    """

    def __init__(
        self, database_url: str, log: Path, redis_url: str = NO_REDIS, variables: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self._admin_port = free_port()
        self.environment = environment(
            {
                "TALLYSTICK_DATABASE_URL": database_url,
                "TALLYSTICK_REDIS_URL": redis_url,
                "TALLYSTICK_REDIS_TIMEOUT_MS": str(REDIS_PATIENCE_MS),
                "TALLYSTICK_ADMIN_PORT": str(self._admin_port),
                **(variables or {}),
            }
        )
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it leads or knows that another process leads."""
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "server.cli", "background"),
                env=self.environment,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
            )
        child = self._child
        await until(lambda: child.returncode is not None or "the background process " in self.log_text(), START_SECONDS)
        assert child.returncode is None, self.log_text()

    async def ask(self, path: str) -> tuple[int, Any]:
        """Return the status and body of an answer of its admin port."""
        url = f"http://127.0.0.1:{self._admin_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())

    def said(self, text: str) -> int:
        """Return how often it has logged a text."""
        return self.log_text().count(text)

    def log_text(self) -> str:
        """Return what it has logged."""
        return self._log.read_text()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(cast(asyncio.subprocess.Process, self._child).pid, number)

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return await asyncio.wait_for(cast(asyncio.subprocess.Process, self._child).wait(), END_SECONDS)

    async def stop(self) -> None:
        """End it, even if it is frozen."""
        if self._child is None or self._child.returncode is not None:
            return
        self.kill(signal.SIGCONT)
        self.kill(signal.SIGTERM)
        try:
            await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()
