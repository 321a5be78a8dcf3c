"""Header fields of requests and answers in the OpenAPI document."""

from typing import Any, Final

from server.http.route import Route
from server.http.wire.head import REQUEST_ID_FORM
from server.ledger.limits import IDEMPOTENCY_KEY_LENGTH_MAX as _KEY_MAX


def _taken(name: str, description: str, example: str, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string", **schema},
        "example": example,
    }


def _given(description: str, example: Any, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": schema or {"type": "string"}, "example": example}


REQUEST: Final = {
    "Idempotency-Key": _taken(
        "Idempotency-Key",
        "Key that the caller makes for one transfer and keeps until its answer is known: 1 to 255 visible ASCII "
        "characters, raw or as a quoted string.",
        "order-1001",
        required=True,
        # A quoted string escapes quotes and backslashes.
        pattern=rf'^([!#-~][!-~]{{0,{_KEY_MAX - 1}}}|"([!#-\[\]-~]|\\["\\]){{1,{_KEY_MAX}}}")$',
    ),
    "If-Match": _taken(
        "If-Match", "The `ETag` of the version to change. Any other version is not changed (412).", '"3"'
    ),
    "If-None-Match": _taken(
        "If-None-Match", "The `ETag` of the caller's copy. If it is still current, the answer is a 304.", '"3"'
    ),
    "Cache-Control": _taken("Cache-Control", "`no-cache` reads the database instead of the cache.", "no-cache"),
    "Last-Event-ID": _taken(
        "Last-Event-ID",
        "Position after which to continue, up to 2^63-1. It takes precedence over `after`.",
        "0",
        pattern="^(0|[1-9][0-9]{0,18})$",
    ),
    "X-Request-Id": _taken(
        "X-Request-Id",
        f"Id of the request, which the answer repeats if it has the form `{REQUEST_ID_FORM}`.",
        "checkout-7f0c",
    ),
}

ANSWER: Final = {
    "Allow": {**_given("Methods of the path.", "GET, PATCH, HEAD"), "required": True},
    "ETag": _given("Version of the account or document, for If-None-Match and If-Match.", '"3"'),
    "Idempotent-Replayed": _given("`true` if this is the first answer again.", "true", type="string", enum=["true"]),
    "RateLimit-Policy": _given(
        "Limits of the key: `q` tokens are added every `w` seconds (draft-ietf-httpapi-ratelimit-headers).",
        '"default";q=100;w=1',
    ),
    "RateLimit": _given("`r` tokens are left, and the limit is full again in `t` seconds.", '"default";r=57;t=1'),
    "Retry-After": _given("Seconds to wait before a retry.", 1, type="integer", minimum=0),
    "Vary": _given("Header fields of the request that the answer depends on.", "Accept"),
    "WWW-Authenticate": {**_given("Scheme of authentication.", "Bearer"), "required": True},
    "X-Request-Id": {
        **_given("Id of the request: the caller's, or one that the server made.", "5f3a1c-2a"),
        "required": True,
    },
}


def taken(route: Route) -> list[dict[str, str]]:
    """Return the header fields that a route takes."""
    names = (*(("Idempotency-Key",) if route.takes_key else ()), *route.fields, "X-Request-Id")
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def given(*names: str) -> dict[str, dict[str, str]]:
    """Return header fields of an answer."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
