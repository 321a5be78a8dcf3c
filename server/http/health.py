"""Probes: whether the process lives, and whether it should be given work."""

import orjson

from server.http.call import Call
from server.http.parts import Parts
from server.http.problems import Problem
from server.http.reply import Reply

_NO_STORE = b"Cache-Control: no-store\r\n"


async def livez(call: Call, parts: Parts) -> Reply:
    """Answer as long as the process runs its loop."""
    return Reply(200, b'{"status":"ok"}', headers=_NO_STORE)


async def readyz(call: Call, parts: Parts) -> Reply:
    """Answer 200 when it is safe to serve, and else why not."""
    failures = await parts.readiness.failures()
    if failures:
        raise Problem("not_ready", "; ".join(failures) + ".", members={"failures": list(failures)})
    return Reply(200, orjson.dumps({"status": "ready"}), headers=_NO_STORE)
