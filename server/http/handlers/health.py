"""Handlers of probes: whether the process lives, and whether it is ready to serve."""

from typing import Literal

import msgspec

from server.http.call import Call
from server.http.headers import NO_STORE
from server.http.problems import Problem
from server.http.query import Query
from server.http.reply import Reply
from server.store.readiness import Readiness


class LiveBody(msgspec.Struct, gc=False):
    """The process lives."""

    status: Literal["ok"]


class ReadyBody(msgspec.Struct, gc=False):
    """The server is ready to serve."""

    status: Literal["ready"]


class HealthHandlers:
    """
    Handlers of probes.

    Args:
        readiness: Knows what keeps the server from serving.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def check_live(self, _call: Call, _query: Query) -> Reply:
        """Answer 200 as long as the event loop runs."""
        return Reply(200, b'{"status":"ok"}', headers=NO_STORE)

    async def check_ready(self, _call: Call, _query: Query) -> Reply:
        """Answer 200 if it is safe to serve, and otherwise with the reasons."""
        failures = await self._readiness.failures()
        if failures:
            raise Problem("not_ready", "; ".join(failures) + ".", members={"failures": list(failures)})
        return Reply(200, b'{"status":"ready"}', headers=NO_STORE)
