"""
Python imports this at its start if the folder is on PYTHONPATH. It keeps a server on this machine, with short waits.

Invented webhook endpoints must reach nobody, and tests that read streams have to see them end.
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
event_streams.LIFE_SECONDS = (0.1, 0.3)  # type: ignore[misc]  # Final elsewhere
