"""Checks that answers contain nothing that the OpenAPI document does not describe."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from server.http.openapi import document
from server.http.route import Route

# Header fields that do not belong to the API: those of any HTTP answer, and those for browsers and proxies.
EVERYWHERE: Final = frozenset(
    (
        *("cache-control", "connection", "content-encoding", "content-length", "content-type", "date"),
        *("transfer-encoding", "content-security-policy", "cross-origin-opener-policy", "referrer-policy"),
        *("x-accel-buffering", "x-content-type-options"),
    )
)


def whole(described: Any, part: Any) -> dict[str, Any]:
    """Return a part of the document with references resolved and `allOf` merged."""
    while "$ref" in part:
        found = described
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    one = {key: value for key, value in part.items() if key != "allOf"}
    for piece in part.get("allOf", ()):
        for key, value in whole(described, piece).items():
            if key == "properties":
                one[key] = {**one.get(key, {}), **value}
            elif key == "required":
                one[key] = [*one.get(key, ()), *value]
            else:
                one[key] = value
    return one


def check_answer(route: Route, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Check that the document has the status, header fields, media type and members of an answer."""
    name = f"{route.operation} answered {status}"
    described = _described()
    answers = described["paths"][route.path][route.method.lower()]["responses"]
    assert str(status) in answers, f"{name}, which is not described"
    answer = whole(described, answers[str(status)])
    for field, given in answer["headers"].items():
        assert field in headers or not whole(described, given).get("required"), f"{name} without {field}"
    told = {name.lower() for name in headers if not name.lower().startswith("access-control-")}
    undescribed = told - {name.lower() for name in answer["headers"]} - EVERYWHERE
    assert not undescribed, f"{name} with {sorted(undescribed)}"
    media = headers.get("Content-Type", "").partition(";")[0]
    forms = answer.get("content", {})
    assert (media in forms) if body else not forms or media in forms, f"{name} as {media}"
    if media.endswith("json"):
        errors = [
            error.message for error in _validator(route.path, route.method, status, media).iter_errors(json.loads(body))
        ]
        assert errors == [], f"{name} with {errors[0]}"


def check_message(body: bytes) -> None:
    """Check that the document describes a message to a webhook endpoint, by its type."""
    message = json.loads(body)
    name = message["type"].removeprefix("tallystick.").removesuffix(".v1")
    schema = _described()["webhooks"][name]["post"]["requestBody"]["content"]["application/cloudevents+json"]["schema"]
    errors = [error.message for error in Draft202012Validator(_strict(schema)).iter_errors(message)]
    assert errors == [], f"{name} with {errors[0]}"


@cache
def _described() -> Any:
    return json.loads(document())


@cache
def _validator(path: str, method: str, status: int, media: str) -> Any:
    described = _described()
    answer = whole(described, described["paths"][path][method.lower()]["responses"][str(status)])
    return Draft202012Validator(_strict(answer["content"][media]["schema"]))


def _strict(part: Any) -> Any:
    """Return a schema without references that allows objects only the members that are described."""
    if isinstance(part, list):
        return [_strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    one = whole(_described(), part)
    strict = {
        key: value if key in ("enum", "examples", "example") else _strict_members(key, value)
        for key, value in one.items()
    }
    if "properties" in one:
        strict.setdefault("additionalProperties", False)
    return strict


def _strict_members(key: str, value: Any) -> Any:
    return {name: _strict(member) for name, member in value.items()} if key == "properties" else _strict(value)
