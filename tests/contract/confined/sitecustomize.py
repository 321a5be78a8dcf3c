"""
Python imports this when it starts, if the folder is on PYTHONPATH: a server keeps to this machine and waits briefly.

A test that makes up webhook endpoints must reach nobody, and one that reads streams to their end has to see it.
"""

import ipaddress
import socket
from typing import Any

from server.events.pages import Page
from server.events.webhooks import addresses
from server.http.feed_reading import Reading
from server.http.handlers import event_streams, events

_waited = events._waited
_look_up = socket.getaddrinfo


def _loopback_only(host: Any, *arguments: Any, **named: Any) -> Any:
    try:
        if host is not None and ipaddress.ip_address(host).is_loopback:
            return _look_up(host, *arguments, **named)
    except ValueError:
        pass
    raise socket.gaierror(socket.EAI_NONAME, "only this machine is looked up here")


async def _briefly(reading: Reading, page: Page, seconds: int) -> list[bytes]:
    return await _waited(reading, page, min(seconds, 1))


socket.getaddrinfo = _loopback_only
addresses._is_public = lambda address: False
events._waited = _briefly
event_streams.LIFE_SECONDS = (0.1, 0.3)  # type: ignore[misc]  # a constant everywhere else
