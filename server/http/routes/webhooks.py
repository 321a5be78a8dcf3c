"""Routes of webhook endpoints."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.gate.keys import Role
from server.http import render
from server.http.handlers.webhook_endpoints import (
    DeliveryBody,
    UndeliveredBody,
    WebhookAction,
    WebhookBody,
    WebhookCreate,
    WebhookDeleted,
    WebhookHandlers,
    WebhookId,
    WebhookPatch,
    WebhookReplay,
    WebhookSecretBody,
    WebhookTested,
)
from server.http.query import PageQuery, Query
from server.http.route import Handler, Route

_TAG: Final = "Webhook endpoints"
_NO_MONEY: Final = "No money moves, and the endpoint shows what was done. One that was created twice can be deleted."
_NO_MEMBERS: Final[Mapping[str, Any]] = {"An empty body": {}}


def _webhook(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answers: Mapping[int, Any],
    *problems: str,
    body: type[msgspec.Struct] | None = None,
    examples: Mapping[str, Any] | None = None,
    query: type[Query] = Query,
) -> Route:
    """Return a route of webhook endpoints, which only administrators may use."""
    bodiless = body is WebhookAction
    return Route(
        method,
        f"/v1/webhook-endpoints{path}",
        Role.ADMIN,
        handler,
        summary,
        _TAG,
        name=WebhookId if path else None,
        query=query,
        body=body,
        examples=_NO_MEMBERS if bodiless else examples or {},
        answers=answers,
        problems=(*(("webhook_endpoint_not_found",) if path else ()), *problems),
        bodiless=bodiless,
        keyless=_NO_MONEY if body else None,
        has_amounts=False,
    )


WEBHOOKS: Final = (
    _webhook(
        "POST",
        "",
        WebhookHandlers.create_webhook_endpoint,
        "Create a webhook endpoint",
        {201: WebhookSecretBody},
        "webhook_endpoints_full",
        "webhooks_not_configured",
        body=WebhookCreate,
        examples={
            "All events": {"url": "https://example.com/webhooks"},
            "Only holds": {
                "url": "https://example.com/holds",
                "types": ["hold.created", "hold.captured", "hold.voided", "hold.expired"],
                "description": "Authorisations",
            },
        },
    ),
    _webhook(
        "GET",
        "",
        WebhookHandlers.list_webhook_endpoints,
        "List webhook endpoints",
        {200: render.Page[WebhookBody]},
        query=PageQuery,
    ),
    _webhook("GET", "/{id}", WebhookHandlers.get_webhook_endpoint, "Read a webhook endpoint", {200: WebhookBody}),
    _webhook(
        "PATCH",
        "/{id}",
        WebhookHandlers.patch_webhook_endpoint,
        "Change a webhook endpoint",
        {200: WebhookBody},
        body=WebhookPatch,
        examples={"Pause": {"state": "disabled"}, "Change the description": {"description": "Bookkeeping"}},
    ),
    _webhook(
        "DELETE",
        "/{id}",
        WebhookHandlers.delete_webhook_endpoint,
        "Delete a webhook endpoint",
        {200: WebhookDeleted},
        body=WebhookAction,
    ),
    _webhook(
        "POST",
        "/{id}/rotate-secret",
        WebhookHandlers.rotate_webhook_secret,
        "Rotate the secret of a webhook endpoint",
        {200: WebhookSecretBody},
        "webhooks_not_configured",
        body=WebhookAction,
    ),
    _webhook(
        "POST",
        "/{id}/test",
        WebhookHandlers.send_webhook_test,
        "Send a test to a webhook endpoint",
        {200: WebhookTested},
        "webhooks_not_configured",
        body=WebhookAction,
    ),
    _webhook(
        "POST",
        "/{id}/replay",
        WebhookHandlers.replay_webhook_endpoint,
        "Send events to a webhook endpoint again",
        {200: WebhookBody},
        "position_not_reached",
        body=WebhookReplay,
        examples={"From the first event on": {"from_position": 1}},
    ),
    _webhook(
        "GET",
        "/{id}/deliveries",
        WebhookHandlers.list_webhook_deliveries,
        "List delivery attempts, newest first",
        {200: render.Page[DeliveryBody]},
        query=PageQuery,
    ),
    _webhook(
        "GET",
        "/{id}/undelivered",
        WebhookHandlers.list_undelivered_events,
        "List undelivered events",
        {200: render.Page[UndeliveredBody]},
        query=PageQuery,
    ),
)
