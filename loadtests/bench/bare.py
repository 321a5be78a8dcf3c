"""`python -m loadtests.bench.bare PORT BODY`: an aiohttp handler that answers always the same and does nothing else."""

import sys

import uvloop
from aiohttp import web


def main() -> None:
    body = sys.argv[2].encode()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/", answer)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
