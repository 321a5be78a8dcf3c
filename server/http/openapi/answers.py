"""The answers of routes in the OpenAPI document: successful ones, and problems by status."""

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from server.http import render
from server.http.members import ProblemBody
from server.http.openapi import schemas
from server.http.openapi.fields import given
from server.http.problems import KINDS
from server.http.route import NAME, Route, Text
from server.http.routes import ROUTES

Codes = tuple[str, ...]

_LIMIT: Final = ("RateLimit-Policy", "RateLimit")
# Header fields of problems by status, besides those of every answer.
_FIELDS: Final[Mapping[int, Codes]] = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
# Header fields of every answer.
_ALWAYS: Final = ("Vary", "X-Request-Id")
# The code with which a path answers methods that it does not have.
_OTHER_METHOD: Final = "method_not_allowed"
# The most codes of a set whose name is made of its codes.
_NAMED_MAX: Final = 2


def answers(route: Route) -> dict[str, Any]:
    """Return the answers of a route by status."""
    bad = {
        str(status): {"$ref": f"#/components/responses/{_names()[codes]}"} for status, codes in by_status(route).items()
    }
    return {**{str(status): _good(route, status) for status in sorted(route.answers)}, **bad}


def by_status(route: Route) -> dict[int, Codes]:
    """Return the codes that a route can answer, by status, including the code for other methods."""
    found: dict[int, list[str]] = {}
    for code in sorted({*route.codes, _OTHER_METHOD}):
        found.setdefault(KINDS[code].status, []).append(code)
    return {status: tuple(found[status]) for status in sorted(found)}


def problem_schemas() -> dict[str, Any]:
    """Return the schemas of problems by name; each lists the codes that it may have."""
    return {
        name: {
            "allOf": [
                schemas.schema(ProblemBody),
                {
                    "type": "object",
                    # No `const`: openapi-python-client does not narrow a number by it.
                    "properties": {
                        "status": {"type": "integer", "enum": [KINDS[codes[0]].status]},
                        "code": {"type": "string", "enum": list(codes)},
                    },
                },
            ]
        }
        for codes, name in _names().items()
    }


def problem_responses() -> dict[str, Any]:
    """Return the answers that are problems, by name."""
    found: dict[str, Any] = {}
    for route in ROUTES:
        for status, codes in by_status(route).items():
            name = _names()[codes]
            later = ("Retry-After",) if "idempotency_key_in_use" in codes else ()
            replayed = ("Idempotent-Replayed",) if route.takes_key and status in (404, 409) else ()
            answer = found.setdefault(
                name,
                {
                    "description": " ".join(f"`{code}`: {KINDS[code].title}." for code in codes),
                    "headers": {},
                    "content": {"application/problem+json": {"schema": schemas.reference(name)}},
                },
            )
            # A field that only some of the routes have may be missing.
            answer["headers"] |= given(*_FIELDS.get(status, ()), *later, *replayed, *_limit(route), *_ALWAYS)
    return dict(sorted(found.items()))


@cache
def _names() -> dict[Codes, str]:
    """Return the name of each set of codes that a route can answer with one status."""
    names: dict[Codes, str] = {}
    for route in ROUTES:
        for status, codes in by_status(route).items():
            if len(codes) <= _NAMED_MAX:
                names[codes] = "Or".join(map(_camel, codes)) + "Problem"
            else:
                names.setdefault(codes, _camel(f"{route.operation}_{HTTPStatus(status).name}".lower()) + "Problem")
    return dict(sorted(names.items(), key=lambda item: item[1]))


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _good(route: Route, status: int) -> dict[str, Any]:
    """Return a successful answer of a route."""
    forms = route.forms(status)
    texts = [form for form in forms if isinstance(form, Text)]
    kinds = [form for form in forms if not isinstance(form, Text)]
    content = {"application/json": {"schema": schemas.one_of(kinds)}} if kinds else {}
    for text in texts:
        content[text.media_type] = {"schema": {**text.schema, "description": text.description}}
    names = ["ETag"] if forms == (render.AccountBody,) or HTTPStatus.NOT_MODIFIED in route.answers else []
    # A write with both statuses answers 200 to a retry.
    if route.takes_key or (route.body is not None and status == HTTPStatus.OK and HTTPStatus.CREATED in route.answers):
        names.append("Idempotent-Replayed")
    names.extend(_limit(route))
    links = {"links": found} if (found := _links(route, status)) else {}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": given(*names, *_ALWAYS),
        **({"content": content} if content else {}),
        **links,
    }


def _limit(route: Route) -> Codes:
    """Return the header fields of a key's limit: pages that are open to all count a key's requests too."""
    return () if route.free else _LIMIT


def _links(route: Route, status: int) -> dict[str, Any]:
    """Return links to the operations on the thing that was made."""
    if status != HTTPStatus.CREATED:
        return {}
    collection = route.path.partition(f"/{NAME}")[0]
    return {
        other.operation: {"operationId": other.operation, "parameters": {"id": "$response.body#/id"}}
        for other in ROUTES
        if other.path.startswith(f"{collection}/{NAME}")
    }
