"""`python -m loadtests.bench.bare PORT`: an aiohttp handler that gives a fixed answer and does nothing else."""

import sys

import uvloop
from aiohttp import web

# As long as the account that Tallystick returns for a read.
BODY = b"{%s}" % (b" " * 270)


async def answer(_request: web.Request) -> web.Response:
    return web.Response(body=BODY, content_type="application/json")


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/", answer)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
