"""A ledger in memory behind HTTP that lies in every way that load tests must detect."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from loadtests.history.recorder import OK, outcome_of
from tests.loadtests.stories import Ledger
from tests.support.listening import end

# One in this many payments is forgotten, and as many are made twice.
EVERY = 10
# Other fields of accounts, entries and transfers.
AT = "2026-01-01T00:00:00.000000Z"
REST: dict[str, Any] = {
    **dict.fromkeys(("ceiling", "reference", "description", "currency")),
    "closed": False,
    "kind": "transfer",
    "metadata": {},
    "created_at": AT,
    "effective_at": AT,
}


class Stub:
    """
    Answers the requests of load tests, with lies.

    It acknowledges transfers that it does not keep, moves the money of others twice, shows outdated accounts, and gives
    different answers to replays.
    """

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._count = itertools.count(1)
        self._asked: dict[str, str] = {}
        self._old: dict[str, str] = {}

    def app(self) -> web.Application:
        """Return the application with its routes."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/v1/limits", self._limits),
                web.get("/v1/accounts", self._list),
                web.post("/v1/accounts/bulk", self._open),
                web.get("/v1/accounts/{id}", self._read),
                web.get("/v1/accounts/{id}/entries", self._entries),
                web.post("/v1/transfers", self._pay),
                web.post("/v1/transfers/bulk", self._pay_bulk),
                web.get("/v1/transfers", self._rows),
                web.get("/v1/idempotency-keys/{key}", self._look_up),
            ]
        )
        return app

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _limits(self, _: web.Request) -> web.Response:
        policy = {"name": "default", "quota": 1_000_000, "window_seconds": 1, "burst": 1_000_000}
        left = {"remaining": 1_000_000, "reset_seconds": 0}
        running = {"limit": 1_000, "running": 1}
        return web.json_response({"policies": [policy | left], "concurrency": running, "counted_by": "service"})

    async def _list(self, request: web.Request) -> web.Response:
        prefix = request.query.get("prefix", "")
        rows = [REST | account for name, account in self._ledger.accounts.items() if name.startswith(prefix)]
        return web.json_response({"data": rows, "next_cursor": None})

    async def _open(self, request: web.Request) -> web.Response:
        asked = (await request.json())["accounts"]
        for account in asked:
            self._ledger.open(account["id"], account["floor"])
        return web.json_response({"results": [{"status": 201, "replayed": False} for _ in asked]})

    async def _read(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        shown = self._old.setdefault(name, json.dumps(self._ledger.accounts[name]))
        return web.Response(text=shown, content_type="application/json")

    async def _entries(self, request: web.Request) -> web.Response:
        mine = [entry for entry in self._ledger.entries if entry["account"] == request.match_info["id"]]
        rows = [REST | entry | {"reference": entry["key"].removesuffix(" again")} for entry in mine]
        return web.json_response({"data": rows, "next_cursor": None})

    async def _rows(self, request: web.Request) -> web.Response:
        mine = [row for row in self._ledger.rows if row["source"] == request.query["account"]]
        rows = [REST | row | {"id": row["transfer_id"], "reference": row["key"]} for row in mine]
        return web.json_response({"data": rows, "next_cursor": None})

    async def _pay(self, request: web.Request) -> web.Response:
        status, body, replayed = self._post(request.headers["Idempotency-Key"], await request.text())
        headers = {"Idempotent-Replayed": "true"} if replayed else {}
        kind = "application/json" if status == 201 else "application/problem+json"
        return web.Response(status=status, text=body, headers=headers, content_type=kind)

    async def _pay_bulk(self, request: web.Request) -> web.Response:
        results: list[dict[str, Any]] = []
        for item in (await request.json())["transfers"]:
            status, body, replayed = self._post(item["key"], json.dumps(item))
            results.append({"status": status, "replayed": replayed, "transfer": REST | json.loads(body)})
        return web.json_response({"results": results})

    async def _look_up(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        found = {entry["transfer_id"] for entry in self._ledger.entries if entry["key"] == key}
        if not found:
            return web.json_response({"code": "idempotency_key_not_found"}, status=404)
        return web.json_response({"id": min(found), "state": "posted"})

    def _post(self, key: str, body: str) -> tuple[int, str, bool]:
        turn = next(self._count) % EVERY
        before = len(self._ledger.entries)
        status, answer, replayed = self._ledger.post(key, body)
        posted = outcome_of(status, answer) == OK and not replayed
        if posted and turn == 0:
            self._forget(before)
        elif posted and turn == 1:
            self._ledger.post(f"{key} again", body)
        elif replayed and status == 201:
            answer = json.dumps({**json.loads(answer), "created_at": "later"})
        return status, answer, replayed

    def _forget(self, before: int) -> None:
        """Undo the last transfer so that the books still add up."""
        for entry in self._ledger.entries[before:]:
            account = self._ledger.accounts[entry["account"]]
            account["balance"] -= entry["amount"]
            account["available"] -= entry["amount"]
            account["version"] -= 1
        del self._ledger.entries[before:]


@asynccontextmanager
async def stub_server() -> AsyncIterator[str]:
    """Serve a stub on a free port; yields its address."""
    runner = web.AppRunner(Stub().app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await end(runner)
