"""Makes the OpenAPI 3.1 document from the table of routes and the types of requests and answers."""

from functools import cache
from typing import Any, Final

import msgspec

from server.http.openapi import answers, fields, schemas
from server.http.openapi.operations import operation
from server.http.openapi.webhooks import webhooks
from server.http.routes import ROUTES
from server.telemetry.version import VERSION

_INFO: Final = {
    "title": "Tallystick",
    "version": VERSION,
    "summary": "A payments ledger: double-entry transfers applied exactly once, however often they are retried.",
    "description": (
        "Amounts are whole numbers of minor units, 1 to 2^63-1; `1250` of EUR is 12.50. With `Accept: "
        "application/json; amounts=string` every amount and balance in an answer is a string, for languages whose "
        "numbers are not exact above 2^53. Requests always take numbers. Times are RFC 3339, from the year 2 to the "
        "year 9998 and without leap seconds; answers have them in UTC.\n\n"
        "Keep an idempotency key until you know the answer to its transfer. Until then, send the same request again "
        "with the same key: it is done once. Every problem of a write says in `outcome` what was done and in `retry` "
        "with which key to send it again. `/problems` explains each `code`.\n\n"
        "A request is refused if it has members or parameters that are not described here, a member twice, or the "
        "character U+0000. Only pages that are open to all ignore parameters. Later versions may add members to "
        "answers and values to lists of values: clients should ignore what they do not know. Every path with GET "
        "answers HEAD too. An unknown path gets a 404 `not_found`, and a method that the path does not have a 405 "
        "`method_not_allowed`, unless the API key is not valid (401)."
    ),
    "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
}
_TAGS: Final = {
    "Accounts": "Accounts with their limits, balances, entries and statements.",
    "Transfers": "Payments, holds, captures, voids and reversals, each with an idempotency key.",
    "Events": "What happened in the ledger, in the order of commits. `/asyncapi.json` describes every way to read it.",
    "API keys": "Keys to the ledger, managed by administrators. Each has a role, limits and, if set, an expiry.",
    "Webhook endpoints": "URLs to which events are sent.",
    "Ledger": "The ledger as a whole, and the limits of the key.",
    "Service": "Probes, documents and pages, open to all.",
}
_SECURITY: Final = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "tsk_<ledger>_<id>_<secret>",
    "description": (
        "A key belongs to one ledger. A `read` key may read, a `write` key may also make changes, and an `admin` key "
        "may do everything. Each operation names the lowest role that it needs."
    ),
}


@cache
def document() -> bytes:
    """Return the document, always the same bytes."""
    # Not made at import: many servers are never asked for it.
    whole = {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": "/", "description": "This server."}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(),
        "webhooks": webhooks(),
        "components": {
            "securitySchemes": {"apiKey": _SECURITY},
            "schemas": {**schemas.components(), **answers.problem_schemas()},
            "responses": answers.problem_responses(),
            "parameters": fields.REQUEST,
            "headers": fields.ANSWER,
        },
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def _paths() -> dict[str, Any]:
    """Return the operations by path and method, in the order of the table."""
    paths: dict[str, Any] = {}
    for route in ROUTES:
        assert route.tag in _TAGS, f"{route.operation} has a tag without a description: {route.tag}"
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route)
    return paths
