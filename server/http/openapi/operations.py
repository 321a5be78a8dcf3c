"""The operations of the OpenAPI document: the parameters, body and answers of each route."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from server.http.openapi import fields, schemas
from server.http.openapi.answers import answers
from server.http.parameters import FREE
from server.http.query import Query
from server.http.route import NAME, Route


def operation(route: Route) -> dict[str, Any]:
    """Return the operation of a route."""
    parameters = [*_path(route), *_query(route.query), *fields.taken(route)]
    body = {} if route.body is None else {"requestBody": _body(route)}
    return {
        "operationId": route.operation,
        "summary": route.summary,
        "description": _description(route),
        "tags": [route.tag],
        "security": [] if route.role is None else [{"apiKey": [route.role.name.lower()]}],
        "parameters": parameters,
        **body,
        "responses": answers(route),
    }


def _description(route: Route) -> str:
    texts = ["Open to all." if route.role is None else f"Needs a key with the role `{route.role.name.lower()}`."]
    if route.items is not None:
        texts.append("Costs one token of the limit for each item.")
    if route.keyless is not None:
        texts.append(f"Takes no Idempotency-Key. {route.keyless}")
    return " ".join(texts)


def _path(route: Route) -> list[dict[str, Any]]:
    if NAME not in route.path:
        return []
    return [{"name": "id", "in": "path", "required": True, **_described(schemas.schema(route.name))}]


def _query(kind: type[Query]) -> list[dict[str, Any]]:
    return [_parameter(field) for field in msgspec.structs.fields(kind)]


def _parameter(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    described = _described(schemas.schema(_given(field.type)))
    # Parameters with a free name are the members of an exploded object: `metadata.channel=web`.
    name, free, _ = field.encode_name.partition(f".{FREE}")
    form = {"style": "form", "explode": bool(free)} if described["schema"]["type"] in ("array", "object") else {}
    # Defaults that mean "no bound" or "all" are left out.
    if type(field.default).__mro__[1] in (int, str) and field.default != "":
        described["schema"]["default"] = type(field.default).__mro__[1](field.default)
    return {"name": name, "in": "query", "required": field.required, **form, **described}


def _given(kind: Any) -> Any:
    """Return the type of a parameter without its None."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (choice for choice in get_args(kind) if choice is not NoneType)
    return kind


def _described(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in the form of a parameter, with description and example outside the schema."""
    inner = {**schema}
    assert "description" in inner, "a parameter has a description, by msgspec.Meta"
    described = {"description": inner.pop("description")}
    if "examples" in inner:
        described["example"] = inner.pop("examples")[0]
    return {**described, "schema": inner}


def _body(route: Route) -> dict[str, Any]:
    examples = {
        f"example{n}": {"summary": title, "value": value} for n, (title, value) in enumerate(route.examples.items(), 1)
    }
    return {
        "required": not route.bodiless,
        "content": {"application/json": {"schema": schemas.schema(route.body), "examples": examples}},
    }
