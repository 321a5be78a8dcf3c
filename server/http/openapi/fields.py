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
        "Made by the caller for one transfer, and kept until its answer is known. 1 to 255 visible ASCII characters, "
        "raw or as a quoted string.",
        "order-1001",
        required=True,
        # A quoted string escapes quotes and backslashes.
        pattern=rf'^([!#-~][!-~]{{0,{_KEY_MAX - 1}}}|"([!#-\[\]-~]|\\["\\]){{1,{_KEY_MAX}}}")$',
    ),
    "If-Match": _taken("If-Match", "The `ETag` that was read: another version is not changed (412).", '"3"'),
    "If-None-Match": _taken("If-None-Match", "The `ETag` that is kept: if it still holds, the answer is a 304.", '"3"'),
    "Cache-Control": _taken("Cache-Control", "`no-cache` reads the database.", "no-cache"),
    "Last-Event-ID": _taken(
        "Last-Event-ID",
        "The position to go on behind; it comes before `after`.",
        "0",
        pattern="^(0|[1-9][0-9]{0,18})$",
    ),
    "X-Request-Id": _taken(
        "X-Request-Id",
        f"Comes back with the answer, where it is of the form `{REQUEST_ID_FORM}`.",
        "checkout-7f0c",
    ),
}

ANSWER: Final = {
    "Allow": {**_given("The methods of the path.", "GET, PATCH, HEAD"), "required": True},
    "ETag": _given("The version of the account, for If-None-Match and If-Match.", '"3"'),
    "Idempotent-Replayed": _given("`true` where it is the first answer again.", "true", type="string", enum=["true"]),
    "RateLimit-Policy": _given(
        "The limits of the key: `q` tokens come every `w` seconds (draft-ietf-httpapi-ratelimit-headers).",
        '"default";q=100;w=1',
    ),
    "RateLimit": _given("`r` tokens are left, and all of them are there again in `t` seconds.", '"default";r=57;t=1'),
    "Retry-After": _given("Seconds after which another try is worth it.", 1, type="integer", minimum=0),
    "Vary": _given("The header fields of the request that the answer depends on.", "Accept"),
    "WWW-Authenticate": {**_given("The scheme of authentication.", "Bearer"), "required": True},
    "X-Request-Id": {**_given("The id of the request: the caller's, or one of ours.", "5f3a1c-2a"), "required": True},
}


def taken(route: Route) -> list[dict[str, str]]:
    """Return the header fields that a route takes."""
    names = (*(("Idempotency-Key",) if route.takes_key else ()), *route.fields, "X-Request-Id")
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def given(*names: str) -> dict[str, dict[str, str]]:
    """Return header fields of an answer."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
