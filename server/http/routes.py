"""All routes in one table: method, path, the role they need, and who answers."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from server.gate.keys import Role
from server.http import accounts, bulk, health, pages, transfers
from server.http.call import Call, path_text
from server.http.parts import Parts
from server.http.reply import Reply

Handler = Callable[[Call, Parts], Awaitable[Reply]]


class Route(NamedTuple):
    """
    A route; `*` in the path stands for one segment, `**` at its end for all the rest.

    The role is what a key needs at least; None is open to all, without a key. A request takes one token of its key's
    limit before it reaches the handler, unless the handler takes them itself, together with what it looks up; without a
    key it takes one of its network address. A free route takes neither token nor place: it is for health alone.

    The handler of a hot route waits for nothing but futures, the gate first, until it waits for Postgres.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    takes_tokens: bool = False
    hot: bool = False
    free: bool = False


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/accounts", Role.WRITE, accounts.create_account),
    Route("GET", "/v1/accounts", Role.READ, accounts.list_accounts),
    Route("POST", "/v1/accounts/bulk", Role.WRITE, accounts.create_accounts, takes_tokens=True),
    Route("GET", "/v1/accounts/*", Role.READ, accounts.get_account, takes_tokens=True, hot=True),
    Route("PATCH", "/v1/accounts/*", Role.WRITE, accounts.patch_account),
    Route("GET", "/v1/accounts/*/entries", Role.READ, accounts.list_entries),
    Route("GET", "/v1/accounts/*/balance", Role.READ, accounts.get_balance),
    Route("POST", "/v1/transfers", Role.WRITE, transfers.create_transfer, takes_tokens=True, hot=True),
    Route("GET", "/v1/transfers", Role.READ, transfers.list_transfers),
    Route("POST", "/v1/transfers/bulk", Role.WRITE, bulk.create_transfers, takes_tokens=True),
    Route("GET", "/v1/transfers/*", Role.READ, transfers.get_transfer),
    Route("GET", "/v1/idempotency-keys/**", Role.READ, transfers.get_idempotency_key),
    Route("GET", "/livez", None, health.livez, free=True),
    Route("GET", "/readyz", None, health.readyz, free=True),
    Route("GET", "/problems", None, pages.problem_index),
    Route("GET", "/problems/*", None, pages.problem),
)

Methods = dict[str, Route]


def _index(*, open_ended: bool) -> dict[str, Methods]:
    paths: dict[str, Methods] = {}
    for route in ROUTES:
        if route.path.endswith("/**") == open_ended:
            paths.setdefault(route.path.removesuffix("**"), {})[route.method] = route
    return paths


def _let_ids_pass(paths: dict[str, Methods]) -> dict[str, Methods]:
    """Give a path that is spelled like an id its other methods too: an account may be called `bulk`."""
    for path, methods in paths.items():
        parent, _, last = path.rpartition("/")
        if last != "*":
            paths[path] = {**paths.get(f"{parent}/*", {}), **methods}
    return paths


_PATHS = _let_ids_pass(_index(open_ended=False))
# By what stands before the last segment, where that is the wildcard.
_ITEMS = {path[:-2]: methods for path, methods in _PATHS.items() if path.endswith("/*")}
_PREFIXES = _index(open_ended=True)


def template(path: str) -> str:
    """Return the path of a route as people write it."""
    return path.replace("**", "{id}").replace("*", "{id}")


# The methods of a path, and the texts its wildcards stand for.
Found = tuple[Methods, tuple[str, ...]]


def find(path: str) -> Found | None:
    """Return the routes of a path by method, and the texts its wildcards stand for; None when there is no such path."""
    methods = _PATHS.get(path)
    if methods is not None and "*" not in path:
        return methods, (path[path.rfind("/") + 1 :],)
    parent, _, last = path.rpartition("/")
    methods = _ITEMS.get(parent)
    if methods is not None and last:
        return methods, (path_text(last),)
    segments = path.split("/")
    if len(segments) == 5 and segments[3]:
        methods = _PATHS.get("/".join((*segments[:3], "*", *segments[4:])))
        if methods is not None:
            return methods, (path_text(segments[3]),)
    for prefix, methods in _PREFIXES.items():
        if path.startswith(prefix) and len(path) > len(prefix):
            return methods, (path[len(prefix) :],)
    return None
