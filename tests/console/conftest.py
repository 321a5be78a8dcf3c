"""A server with a console for the tests of a file."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.console.steps import TOKEN, Console, key_of
from tests.support.client import Client
from tests.support.service import LOOPBACK, WEBHOOK_KEY, shared_server


@pytest.fixture(scope="module")
async def console(template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Console]:
    """One server with one worker and a background process."""
    variables = {
        # It fills the feed.
        "TALLYSTICK_BACKGROUND": "true",
        "TALLYSTICK_CONSOLE_TOKEN": TOKEN,
        "TALLYSTICK_WEBHOOK_KEY": WEBHOOK_KEY,
        "TALLYSTICK_WEBHOOK_PRIVATE_NETWORKS": LOOPBACK,
    }
    log = tmp_path_factory.mktemp("console") / "log"
    async with shared_server(template, log, variables, redis_url) as server, aiohttp.ClientSession() as session:
        yield Console(server, session, Client(session, server.url, await key_of(server)))
