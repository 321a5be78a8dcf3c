"""The routes of the console, and what each request to them needs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from server.process.console.board import Board
from server.process.console.files import PAGE, read_files
from server.process.console.guard import Guard, refusal
from server.process.console.live import Live
from server.process.mirror import Mirror
from server.process.operators import Handler
from server.settings import Settings

if TYPE_CHECKING:
    from server.process.console.operator import Operator

LEDGER: Final = r"/console/ledgers/{ledger:[1-9][0-9]{0,18}}"


class Console:
    """
    The console of a server.

    Args:
        settings: The settings of the server.

        token: The token of the console.

        mirror: Holds what the children have reported.
    """

    def __init__(self, settings: Settings, token: str, mirror: Mirror) -> None:
        self._settings = settings
        self._guard = Guard(token, settings.admin_host)
        self._board = Board(mirror)
        self._live = Live(self._board)
        self._files = read_files()
        self._operator: Operator | None = None

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return all routes. All but the page and its files, which hold no data, need the token."""
        known, named = self._with_token, self._by_name
        return [
            web.get("/console", named(self._page)),
            web.get("/console/", named(self._page)),
            web.get("/console/static/{name:.+}", named(self._file)),
            # Allow no HEAD request: it would run like the stream and send nothing.
            web.get("/console/live", known(self._live.stream), allow_head=False),
            web.get("/console/ledgers", known(self._list_ledgers)),
            web.get(LEDGER + "/transfers/{transfer}/children", known(self._list_children)),
            web.route("*", LEDGER + "/v1/{path:.+}", known(self._serve)),
            web.route("*", "/console/{path:.*}", known(_nothing)),
        ]

    def end_streams(self) -> None:
        """End the live streams, which would otherwise hold up the shutdown."""
        self._board.end()

    async def close(self) -> None:
        """Close the connections of look-ups and actions."""
        if self._operator is not None:
            await self._operator.close()

    def _by_name(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            return self._guard.refused_name(request) or await handler(request)

        return answer

    def _with_token(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            return self._guard.refused_token(request) or await handler(request)

        return self._by_name(answer)

    async def _page(self, _: web.Request) -> web.Response:
        return self._files[PAGE].answer()

    async def _file(self, request: web.Request) -> web.Response:
        file = self._files.get(request.match_info["name"])
        return refusal(404, "The console has no such file.") if file is None else file.answer()

    async def _list_ledgers(self, _: web.Request) -> web.Response:
        return await self._operates().list_ledgers()

    async def _list_children(self, request: web.Request) -> web.Response:
        return await self._operates().list_children(int(request.match_info["ledger"]), request.match_info["transfer"])

    async def _serve(self, request: web.Request) -> web.Response:
        return await self._operates().serve(request)

    def _operates(self) -> "Operator":
        if self._operator is None:
            # Imported when first needed: it takes most of the memory of this process, and many servers never need it.
            from server.process.console.operator import Operator  # noqa: PLC0415

            self._operator = Operator(self._settings)
        return self._operator


async def _nothing(_: web.Request) -> web.Response:
    return refusal(404, "The console has no such page.")


class NoConsole:
    """Stands in for the console of a server that has none."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return no routes."""
        return []

    def end_streams(self) -> None:
        """Do nothing."""


@asynccontextmanager
async def open_console(settings: Settings, mirror: Mirror) -> AsyncIterator[Console | NoConsole]:
    """Yield the console, or a stand-in if the settings have no token for one, and close it."""
    if settings.console_token is None:
        yield NoConsole()
        return
    console = Console(settings, settings.console_token, mirror)
    try:
        yield console
    finally:
        await console.close()
