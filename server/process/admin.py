"""
The admin process: it answers operators, so that the supervisor need not answer any requests.

Run as `python -m server.process.admin CHANNEL SUPERVISOR LISTENER`. CHANNEL and LISTENER are inherited descriptors, and
SUPERVISOR is the id of the parent process.
"""

import asyncio
import logging
import socket
import sys

from aiohttp import web

from server.process import attached
from server.process.channel import Ask, Channel, Orders, Ready, Report, Retire, Serving, Stop, ToChild
from server.process.console.routes import open_console
from server.process.mirror import SILENCE_SECONDS, Mirror, UnknownError
from server.process.operators import METRICS_TYPE, Handler, answer_operators, hand_over, json_response
from server.settings import Settings
from server.store.background import stop

# Named explicitly: this module runs as a program, so its __name__ is "__main__".
log = logging.getLogger("server.process.admin")

_NO_WORD = {"status": "not_ready", "failures": ["the supervisor does not answer"]}


class Admin:
    """
    Answers requests for the health and metrics of the whole server.

    Args:
        mirror: Holds what the children have reported.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def routes(self) -> dict[str, Handler]:
        """Return the handler of each path."""
        return {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/hot-accounts": self._hot_accounts,
        }

    async def _livez(self, _: web.Request) -> web.Response:
        """Answer 200 while the supervisor sends messages, otherwise 503."""
        silent = self._mirror.silent_seconds > SILENCE_SECONDS
        return json_response(503, {"status": "stuck"}) if silent else json_response(200, {"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        """Answer 200 if at least one worker can serve requests, otherwise 503; show the state of each child."""
        try:
            told = await self._mirror.reports()
        except UnknownError:
            return json_response(503, _NO_WORD)
        children = told.children
        of_workers = [child for child in children if child.vital]
        shown: dict[str, object] = {"workers": [{"worker": int(of.label), **_shown(of)} for of in of_workers]}
        # Other children: at most the background process. Requests can be served without it.
        shown.update((child.label, _shown(child)) for child in children if not child.vital)
        if told.stopping:
            return json_response(503, {"status": "stopping", **shown})
        is_ready = any(child.state == "serving" and not child.failures for child in of_workers)
        return json_response(200 if is_ready else 503, {"status": "ready" if is_ready else "not_ready", **shown})

    async def _metrics(self, _: web.Request) -> web.Response:
        """Answer with the metrics of all processes, for Prometheus."""
        # Imported when first needed: the import is slow, as its docstring says.
        from server.process import scrape  # noqa: PLC0415

        try:
            await self._mirror.known()
        except UnknownError:
            return json_response(503, _NO_WORD)
        body = scrape.metrics(self._mirror)
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})

    async def _hot_accounts(self, _: web.Request) -> web.Response:
        """Answer with the accounts that had most transfers in the last few seconds."""
        try:
            await self._mirror.known()
        except UnknownError:
            return json_response(503, _NO_WORD)
        return json_response(200, {"accounts": [account._asdict() for account in self._mirror.hot_accounts()]})


def main() -> int:
    """Answer operators until the supervisor ends it, and return the exit code."""
    channel, supervisor, listener = map(int, sys.argv[1:])

    async def work(_: Orders, settings: Settings, channel: Channel[ToChild]) -> None:
        await serve(settings, socket.socket(fileno=listener), channel)

    return attached.run(channel, supervisor, work, process="admin")


async def serve(settings: Settings, listener: socket.socket, channel: Channel[ToChild]) -> None:
    """
    Answer operators on a socket that the supervisor keeps open.

    Args:
        settings: The settings that the supervisor has sent.
    """
    ending: asyncio.Future[Stop | Retire] = asyncio.get_running_loop().create_future()
    mirror = Mirror(channel.send)

    def handle(message: ToChild) -> None:
        match message:
            case Ask():
                channel.send(Ready())
            case Stop() | Retire():
                if not ending.done():
                    ending.set_result(message)
            case Orders():
                log.error("orders came twice")
            case _:
                mirror.handle(message)

    channel.listen(handle, attached.leave)
    beating = asyncio.create_task(attached.beat(channel))
    try:
        async with open_console(settings, mirror) as console:
            runner = await answer_operators(Admin(mirror).routes(), listener, console.routes())
            log.info("listening for operators at %s:%d", *listener.getsockname()[:2])
            channel.send(Serving())
            try:
                if isinstance(await ending, Retire):
                    await hand_over(runner)
            finally:
                console.end_streams()
                await runner.cleanup()
    finally:
        await stop(beating)


def _shown(child: Report) -> dict[str, object]:
    return {"pid": child.pid, "state": child.state, "failures": child.failures}


if __name__ == "__main__":
    sys.exit(main())
