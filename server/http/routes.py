"""All routes in one table, and the way from a path to its routes."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from server.gate.keys import Role
from server.http import models, render
from server.http.accounts import AccountHandlers
from server.http.bulk import BulkHandlers
from server.http.event_streams import EventStreamHandlers
from server.http.events import EventHandlers, EventsBody
from server.http.health import HealthHandlers
from server.http.integrity import IntegrityBody, IntegrityHandlers
from server.http.key_limits import LimitHandlers, LimitsBody
from server.http.pages import PageHandlers
from server.http.path import path_text
from server.http.previews import PreviewHandlers
from server.http.query import (
    AccountQuery,
    AccountsQuery,
    BalanceQuery,
    EntriesQuery,
    EventsQuery,
    EventStreamQuery,
    Query,
    StatementQuery,
    TransfersQuery,
    TrialBalanceQuery,
)
from server.http.reference import BUNDLE_PATH, ReferenceHandlers
from server.http.route import Handler, Route
from server.http.statement_forms import StatementBody
from server.http.statements import StatementHandlers, TrialBalanceBody
from server.http.transfer_lists import TransferListHandlers
from server.http.transfers import TransferHandlers
from server.http.webhook_endpoints import (
    DeliveryBody,
    UndeliveredBody,
    WebhookAction,
    WebhookBody,
    WebhookCreate,
    WebhookDeleted,
    WebhookHandlers,
    WebhookPatch,
    WebhookReplay,
    WebhookSecretBody,
    WebhooksQuery,
    WebhookTested,
)

_OPENED_ONCE: Final = "An account's id is its key: the same request again opens nothing and is answered 200."
_CHANGED_ONCE: Final = "A change is made once with If-Match: sent again, it is answered 412."
_NO_KEY_BOUND: Final = "A preview posts nothing and binds no key."
_KEY_PROBLEMS: Final = (
    "idempotency_key_missing",
    "idempotency_key_invalid",
    "idempotency_key_in_use",
    "idempotency_key_reused",
)
_NO_MONEY: Final = "No money moves here: what was done is seen in the endpoint, and doing it again does no harm."
_KEY_IN_ITEM: Final = "In a bulk each transfer has a key of its own, in its member key."


def _posting(path: str, handler: Handler, body: type[msgspec.Struct], *, bodiless: bool = False) -> Route:
    """Return a route that posts one transfer under the key in its header."""
    return Route(
        "POST",
        path,
        Role.WRITE,
        handler,
        body=body,
        bodiless=bodiless,
        answers={201: render.TransferBody},
        problems=(*_KEY_PROBLEMS, *render.REFUSALS),
        look_up=TransferHandlers.stored,
        replay=TransferHandlers.replay,
        hot=True,
    )


def _webhook(
    method: str,
    path: str,
    handler: Handler,
    answers: Mapping[int, Any],
    *problems: str,
    body: type[msgspec.Struct] | None = None,
    query: type[Query] = Query,
) -> Route:
    """Return a route of webhook endpoints, of which administrators alone know."""
    return Route(
        method,
        f"/v1/webhook-endpoints{path}",
        Role.ADMIN,
        handler,
        query=query,
        body=body,
        answers=answers,
        problems=(*(("webhook_endpoint_not_found",) if path else ()), *problems),
        bodiless=body is WebhookAction,
        keyless=_NO_MONEY if body else None,
        has_amounts=False,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/accounts",
        Role.WRITE,
        AccountHandlers.create_account,
        body=models.AccountCreate,
        answers={200: render.AccountBody, 201: render.AccountBody},
        problems=("account_exists",),
        keyless=_OPENED_ONCE,
    ),
    Route(
        "GET",
        "/v1/accounts",
        Role.READ,
        AccountHandlers.list_accounts,
        query=AccountsQuery,
        answers={200: render.Page[render.AccountBody]},
    ),
    Route(
        "POST",
        "/v1/accounts/bulk",
        Role.WRITE,
        AccountHandlers.create_accounts,
        body=models.AccountBulk,
        answers={200: render.Results[render.AccountResult]},
        keyless=_OPENED_ONCE,
        items="accounts",
    ),
    Route(
        "GET",
        "/v1/accounts/{id}",
        Role.READ,
        AccountHandlers.get_account,
        query=AccountQuery,
        answers={200: render.AccountBody, 304: None},
        problems=("account_not_found", "version_not_reached"),
        look_up=AccountHandlers.snapshot,
        hot=True,
    ),
    Route(
        "PATCH",
        "/v1/accounts/{id}",
        Role.WRITE,
        AccountHandlers.patch_account,
        body=models.AccountPatch,
        answers={200: render.AccountBody},
        problems=("account_not_found", "limits_conflict", "metadata_full", "precondition_failed"),
        keyless=_CHANGED_ONCE,
    ),
    Route(
        "GET",
        "/v1/accounts/{id}/entries",
        Role.READ,
        AccountHandlers.list_entries,
        query=EntriesQuery,
        answers={200: render.Page[render.EntryBody]},
        problems=("account_not_found",),
    ),
    Route(
        "GET",
        "/v1/accounts/{id}/balance",
        Role.READ,
        AccountHandlers.get_balance,
        query=BalanceQuery,
        answers={200: render.BalanceBody},
        problems=("account_not_found",),
    ),
    Route(
        "GET",
        "/v1/accounts/{id}/statement",
        Role.READ,
        StatementHandlers.get_statement,
        query=StatementQuery,
        answers={200: StatementBody},
        problems=("account_not_found",),
    ),
    Route(
        "GET",
        "/v1/balances",
        Role.READ,
        StatementHandlers.get_balances,
        query=TrialBalanceQuery,
        answers={200: TrialBalanceBody},
    ),
    _posting("/v1/transfers", TransferHandlers.create_transfer, models.TransferCreate),
    Route(
        "GET",
        "/v1/transfers",
        Role.READ,
        TransferListHandlers.list_transfers,
        query=TransfersQuery,
        answers={200: render.Page[render.TransferBody]},
    ),
    Route(
        "POST",
        "/v1/transfers/bulk",
        Role.WRITE,
        BulkHandlers.create_transfers,
        body=models.TransferBulk,
        answers={200: render.Results[render.TransferResult]},
        problems=("idempotency_key_in_use",),
        keyless=_KEY_IN_ITEM,
        items="transfers",
        make_room=BulkHandlers.make_room,
    ),
    Route(
        "POST",
        "/v1/transfers/preview",
        Role.WRITE,
        PreviewHandlers.preview_transfers,
        body=models.Preview,
        answers={200: render.Results[render.TransferResult]},
        keyless=_NO_KEY_BOUND,
        items="transfers",
    ),
    Route(
        "GET",
        "/v1/transfers/{id}",
        Role.READ,
        TransferHandlers.get_transfer,
        answers={200: render.TransferNow},
        problems=("transfer_not_found",),
    ),
    _posting("/v1/transfers/{id}/capture", TransferHandlers.capture_transfer, models.Capture, bodiless=True),
    _posting("/v1/transfers/{id}/void", TransferHandlers.void_transfer, models.Void, bodiless=True),
    _posting("/v1/transfers/{id}/reverse", TransferHandlers.reverse_transfer, models.Reversal, bodiless=True),
    Route(
        "GET",
        "/v1/idempotency-keys/{id}",
        Role.READ,
        TransferHandlers.get_idempotency_key,
        answers={200: render.TransferNow},
        problems=("idempotency_key_not_found",),
        rest=True,
    ),
    Route(
        "GET",
        "/v1/events",
        Role.READ,
        EventHandlers.list_events,
        query=EventsQuery,
        answers={200: EventsBody},
        problems=("position_not_reached",),
    ),
    Route(
        "GET",
        "/v1/events/stream",
        Role.READ,
        EventStreamHandlers.stream_events,
        query=EventStreamQuery,
        answers={200: None},
        problems=("position_not_reached",),
    ),
    Route(
        "GET",
        "/v1/limits",
        Role.READ,
        LimitHandlers.get_limits,
        answers={200: LimitsBody},
        cost=LimitHandlers.cost,
        has_amounts=False,
    ),
    Route(
        "GET",
        "/v1/integrity",
        Role.ADMIN,
        IntegrityHandlers.get_integrity,
        answers={200: IntegrityBody},
        has_amounts=False,
    ),
    _webhook(
        "POST",
        "",
        WebhookHandlers.create_endpoint,
        {201: WebhookSecretBody},
        "webhook_endpoints_full",
        "webhooks_not_configured",
        body=WebhookCreate,
    ),
    _webhook("GET", "", WebhookHandlers.list_endpoints, {200: render.Page[WebhookBody]}, query=WebhooksQuery),
    _webhook("GET", "/{id}", WebhookHandlers.get_endpoint, {200: WebhookBody}),
    _webhook("PATCH", "/{id}", WebhookHandlers.patch_endpoint, {200: WebhookBody}, body=WebhookPatch),
    _webhook("DELETE", "/{id}", WebhookHandlers.delete_endpoint, {200: WebhookDeleted}, body=WebhookAction),
    _webhook(
        "POST",
        "/{id}/rotate-secret",
        WebhookHandlers.rotate_secret,
        {200: WebhookSecretBody},
        "webhooks_not_configured",
        body=WebhookAction,
    ),
    _webhook(
        "POST",
        "/{id}/test",
        WebhookHandlers.try_endpoint,
        {200: WebhookTested},
        "webhooks_not_configured",
        body=WebhookAction,
    ),
    _webhook("POST", "/{id}/replay", WebhookHandlers.replay_endpoint, {200: WebhookBody}, body=WebhookReplay),
    _webhook(
        "GET",
        "/{id}/deliveries",
        WebhookHandlers.list_deliveries,
        {200: render.Page[DeliveryBody]},
        query=WebhooksQuery,
    ),
    _webhook(
        "GET",
        "/{id}/undelivered",
        WebhookHandlers.list_undelivered,
        {200: render.Page[UndeliveredBody]},
        query=WebhooksQuery,
    ),
    Route("GET", "/livez", None, HealthHandlers.livez, answers={200: None}, free=True),
    Route("GET", "/readyz", None, HealthHandlers.readyz, answers={200: None}, problems=("not_ready",), free=True),
    Route("GET", "/asyncapi.json", None, PageHandlers.asyncapi, answers={200: None}),
    Route("GET", "/docs", None, ReferenceHandlers.page, answers={200: None}),
    Route("GET", BUNDLE_PATH, None, ReferenceHandlers.bundle, answers={200: None, 304: None}),
    Route("GET", "/problems", None, PageHandlers.problem_index, answers={200: None}),
    Route("GET", "/problems/{id}", None, PageHandlers.problem, answers={200: None}, problems=("not_found",)),
)

# The routes of a path, by method.
Methods = dict[str, Route]
# These, and the texts that the names in the path stand for.
Match = tuple[Methods, tuple[str, ...]]

_NAME: Final = "{id}"


class Router:
    """
    Finds routes by path.

    Args:
        routes: All of them.

    Attributes:
        routes: The same.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        paths: dict[str, Methods] = {}
        self._prefixes: dict[str, Methods] = {}
        for route in self.routes:
            index = self._prefixes if route.rest else paths
            index.setdefault(route.path.removesuffix(_NAME) if route.rest else route.path, {})[route.method] = route
        for path, methods in paths.items():
            # An account may be called `bulk`: such a path has the other methods of an account too.
            parent, _, last = path.rpartition("/")
            if last != _NAME:
                paths[path] = {**paths.get(f"{parent}/{_NAME}", {}), **methods}
        self._paths = paths
        # By what stands before the last segment, where that is a name.
        self._items = {path[: -len(_NAME) - 1]: methods for path, methods in paths.items() if path.endswith(_NAME)}

    def find(self, path: str) -> Match | None:
        """Return the routes of a path, and the texts its names stand for; None when there is no such path."""
        parent, _, last = path.rpartition("/")
        methods = self._paths.get(path)
        if methods is not None and _NAME not in path:
            return methods, (last,)
        methods = self._items.get(parent)
        if methods is not None and last:
            return methods, (path_text(last),)
        segments = path.split("/")
        if len(segments) == 5 and segments[3]:
            methods = self._paths.get("/".join((*segments[:3], _NAME, *segments[4:])))
            if methods is not None:
                return methods, (path_text(segments[3]),)
        for prefix, prefixed in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return prefixed, (path[len(prefix) :],)
        return None


def bind(handlers: Iterable[object]) -> list[Route]:
    """Return the routes with the methods of these objects as their handlers."""
    by_type = {type(handler): handler for handler in handlers}

    def bound(method: Any) -> Any:
        if method is None:
            return None
        owner = next(owner for kind, owner in by_type.items() if vars(kind).get(method.__name__) is method)
        return getattr(owner, method.__name__)

    return [
        route._replace(
            handler=bound(route.handler),
            make_room=bound(route.make_room),
            look_up=bound(route.look_up),
            cost=bound(route.cost),
            replay=bound(route.replay),
        )
        for route in ROUTES
    ]
