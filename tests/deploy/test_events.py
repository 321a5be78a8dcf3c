"""Balancers pass events on without delay, and do not cut off readers that wait."""

import asyncio
import re

import pytest

from server.http.handlers.event_streams import SILENCE_SECONDS
from server.http.parameters import WAIT_MAX_SECONDS
from tests.deploy.hosts import Hosts
from tests.support.balancer import DEPLOY
from tests.support.events import relaying, streaming

# Seconds that an answer may take beyond the requested wait.
MARGIN_SECONDS = 10


@pytest.mark.parametrize(
    ("file", "timeout"),
    [
        ("haproxy.cfg", r"backend tallystick-events\n(?:    .*\n)*    timeout server (\d+)s"),
        ("nginx.conf", r"location /v1/events \{\n(?:            .*\n)*            proxy_read_timeout (\d+)s"),
    ],
)
def test_servers_may_be_silent(file: str, timeout: str) -> None:
    """Balancers allow a server to be silent for as long as a poll may wait and a stream may be idle."""
    [seconds] = re.findall(timeout, (DEPLOY / file).read_text())
    assert int(seconds) >= max(WAIT_MAX_SECONDS, SILENCE_SECONDS) + MARGIN_SECONDS


async def test_events_come_at_once(hosts: Hosts) -> None:
    """A waiting poll gets one small event at once, and so does an open stream."""
    async with relaying(hosts.history.database_url):
        async with streaming(hosts.client, "?type=account.closed") as stream:
            waiting = asyncio.create_task(hosts.client.get("/v1/events?type=account.closed&wait=30"))
            await hosts.client.open("leaving")
            await hosts.client.send("PATCH", "/v1/accounts/leaving", {"closed": True})
            sent = await asyncio.wait_for(stream.next(), WAIT_MAX_SECONDS)
            assert sent is not None
            assert (await waiting).json["data"] == [sent.data]
        assert sent.data["subject"] == "leaving"
