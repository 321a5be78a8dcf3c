"""Routes of API keys."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.gate.keys import Role
from server.http import render
from server.http.handlers.api_keys import (
    ApiKeyBody,
    ApiKeyCreate,
    ApiKeyHandlers,
    ApiKeyId,
    ApiKeyPatch,
    ApiKeyRevoke,
    ApiKeyRotate,
    ApiKeyTokenBody,
)
from server.http.query import PageQuery, Query
from server.http.route import Handler, Route

_TAG: Final = "API keys"
_TOKEN_LOST: Final = (
    "If the answer with the token is lost, list the keys, revoke the one that was made, and make another."  # noqa: S105 -- no token
)
_NO_HARM: Final = "No money moves: the key shows what was done, and a repeated request does no harm."


def _api_key(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answers: Mapping[int, Any],
    *problems: str,
    body: type[msgspec.Struct] | None = None,
    examples: Mapping[str, Any] | None = None,
    query: type[Query] = Query,
    keyless: str | None = None,
) -> Route:
    """Return a route of API keys, which only administrators may use."""
    return Route(
        method,
        f"/v1/api-keys{path}",
        Role.ADMIN,
        handler,
        summary,
        _TAG,
        name=ApiKeyId if path else None,
        query=query,
        narrowed=True,
        body=body,
        examples=examples or {},
        answers=answers,
        problems=(*(("api_key_not_found",) if path else ()), *problems),
        bodiless=body in (ApiKeyRotate, ApiKeyRevoke),
        keyless=keyless or (_NO_HARM if body else None),
        has_amounts=False,
    )


API_KEYS: Final = (
    _api_key(
        "POST",
        "",
        ApiKeyHandlers.create_api_key,
        "Create an API key",
        {201: ApiKeyTokenBody},
        "api_keys_full",
        body=ApiKeyCreate,
        examples={
            "For a web shop": {
                "role": "write",
                "description": "web shop",
                "accounts": ["customer:"],
                "expires_at": "2035-01-01T00:00:00Z",
                "rate": "100/s",
                "burst": 200,
            }
        },
        keyless=_TOKEN_LOST,
    ),
    _api_key(
        "GET",
        "",
        ApiKeyHandlers.list_api_keys,
        "List API keys",
        {200: render.Page[ApiKeyBody]},
        query=PageQuery,
    ),
    _api_key("GET", "/{id}", ApiKeyHandlers.get_api_key, "Read an API key", {200: ApiKeyBody}),
    _api_key(
        "PATCH",
        "/{id}",
        ApiKeyHandlers.patch_api_key,
        "Change an API key",
        {200: ApiKeyBody},
        "api_key_ended",
        body=ApiKeyPatch,
        examples={"Another rate": {"rate": "50/s", "burst": None}},
    ),
    _api_key(
        "DELETE",
        "/{id}",
        ApiKeyHandlers.revoke_api_key,
        "Revoke an API key",
        {200: ApiKeyBody},
        body=ApiKeyRevoke,
        examples={"An empty body": {}},
    ),
    _api_key(
        "POST",
        "/{id}/rotate",
        ApiKeyHandlers.rotate_api_key,
        "Rotate an API key",
        {200: ApiKeyTokenBody},
        "api_key_ended",
        body=ApiKeyRotate,
        examples={"Older tokens work for another hour": {"overlap_seconds": 3600}},
    ),
)
