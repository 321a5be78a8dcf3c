"""Breaking changes are found, and harmless ones are not; the current document breaks no caller of the last release."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.compatibility import breaks
from tests.contract.documents import CURRENT, RELEASED

Change = Callable[[Any], None]


def place(document: Any, text: str) -> tuple[Any, Any]:
    """Return the container and the last key or number on the path in *text*, whose steps are separated by blanks."""
    *steps, last = text.split()
    for step in steps:
        document = document[int(step) if isinstance(document, list) else step]
    return document, int(last) if isinstance(document, list) and last.isdigit() else last


def at(text: str, value: Any) -> Change:
    """Return a change that sets the value at *text*."""

    def change(document: Any) -> None:
        holder, last = place(document, text)
        holder[last] = value

    return change


def without(text: str) -> Change:
    """Return a change that removes what is at *text*; in a list of texts the last step is the text itself."""

    def change(document: Any) -> None:
        holder, last = place(document, text)
        if isinstance(holder, list) and isinstance(last, str):
            holder.remove(last)
        else:
            del holder[last]

    return change


def both(*changes: Change) -> Change:
    """Return a change that makes all of these changes."""

    def change(document: Any) -> None:
        for one in changes:
            one(document)

    return change


POST, GET = "paths /things post", "paths /things get"
TAKEN, SHOWN = "components schemas ThingCreate", "components schemas Thing"
CONFLICT = "components schemas Conflict allOf 1 properties code enum"


def thing() -> dict[str, Any]:
    members = {
        "name": {"type": "string", "maxLength": 9},
        "kind": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "size": {"type": ["integer", "null"], "minimum": 1},
        "tags": {"type": "array"},
        "at": {"type": "string", "format": "date-time"},
    }
    return {"type": "object", "properties": members, "required": ["name"]}


def document() -> dict[str, Any]:
    """Return a small document in the form of ours."""
    limit = {"name": "limit", "in": "query", "required": False, "schema": {"type": "integer", "maximum": 9}}
    shown = {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}
    return {
        "paths": {
            "/things": {
                "post": {
                    "operationId": "create_thing",
                    "security": [{"apiKey": ["write"]}],
                    "parameters": [],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ThingCreate"}}},
                    },
                    "responses": {
                        "201": {"headers": {"ETag": {}}, "content": shown},
                        "409": {
                            "content": {
                                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Conflict"}}
                            }
                        },
                    },
                },
                "get": {
                    "operationId": "get_thing",
                    "security": [{"apiKey": ["read"]}],
                    "parameters": [limit],
                    "responses": {"200": {"content": {**shown, "text/csv": {"schema": {"type": "string"}}}}},
                },
            }
        },
        "components": {
            "schemas": {
                "ThingCreate": {**thing(), "additionalProperties": False},
                "Thing": thing(),
                "Problem": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
                "Conflict": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Problem"},
                        {"type": "object", "properties": {"code": {"type": "string", "enum": ["x", "y"]}}},
                    ]
                },
            }
        },
    }


BREAKING = [
    pytest.param(without("paths /things"), "is gone", id="a path is gone"),
    pytest.param(without(GET), "is gone", id="an operation is gone"),
    pytest.param(at(f"{GET} operationId", "read_thing"), "is called", id="an operation has another name"),
    pytest.param(at(f"{GET} security 0 apiKey 0", "admin"), "role", id="another role is needed"),
    pytest.param(at(f"{GET} security", [{"basic": []}]), "another kind", id="another kind of key is needed"),
    pytest.param(at(f"{GET} security 0 basic", []), "another kind", id="a second key is needed"),
    pytest.param(without(f"{POST} responses 409"), "not answered with 409", id="a status is gone"),
    pytest.param(without(f"{POST} responses 201 headers ETag"), "no header", id="a header field is gone"),
    pytest.param(without(f"{GET} responses 200 content text/csv"), "no text/csv", id="a media type is gone"),
    pytest.param(without(f"{GET} parameters 0"), "limit is gone", id="a parameter is gone"),
    pytest.param(at(f"{GET} parameters 0 required", True), "is required", id="a parameter is required"),
    pytest.param(at(f"{GET} parameters 0 schema maximum", 8), "smaller maximum", id="a parameter has a smaller range"),
    pytest.param(without(f"{TAKEN} properties size"), "size is gone", id="a member is not taken"),
    pytest.param(at(f"{TAKEN} required", ["name", "size"]), "size is required", id="a member is required"),
    pytest.param(at(f"{TAKEN} properties name maxLength", 8), "smaller maxLength", id="a text has to be shorter"),
    pytest.param(at(f"{TAKEN} properties name pattern", "^a"), "another pattern", id="a text has a pattern"),
    pytest.param(at(f"{TAKEN} properties name not", {"const": "a"}), "another not", id="a text is not taken"),
    pytest.param(at(f"{TAKEN} properties size multipleOf", 5), "multipleOf", id="a number has to be round"),
    pytest.param(at(f"{TAKEN} properties size exclusiveMinimum", 1), "exclusiveMinimum", id="a number is larger"),
    pytest.param(at(f"{TAKEN} properties size type", "integer"), "another type", id="null is not taken"),
    pytest.param(
        at(f"{TAKEN} properties name", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        "another choice",
        id="a text is none of the choices",
    ),
    pytest.param(at(f"{TAKEN} properties tags items", {"type": "string"}), "has a schema", id="items have to be texts"),
    pytest.param(at(f"{TAKEN} properties kind default", "b"), "another default", id="what is left out means another"),
    pytest.param(without(f"{TAKEN} properties kind enum b"), "lost a value", id="a value is not taken"),
    pytest.param(without(f"{SHOWN} properties size"), "size is gone", id="a member is not shown"),
    pytest.param(at(f"{SHOWN} required", []), "left out", id="a member is not always shown"),
    pytest.param(at(f"{SHOWN} properties name type", ["string", "null"]), "another type", id="null is shown"),
    pytest.param(at(f"{SHOWN} properties size type", "string"), "another type", id="a number is shown as a text"),
    pytest.param(at(f"{SHOWN} properties at format", "date"), "another format", id="an instant is shown as a day"),
    pytest.param(without(f"{SHOWN} properties at format"), "another format", id="an instant may be any text"),
    pytest.param(without(f"{CONFLICT} y"), "lost a value", id="a code of a problem is gone"),
]
HARMLESS = [
    pytest.param(at("paths /others", document()["paths"]["/things"]), id="a path is there besides"),
    pytest.param(at(f"{GET} responses 503", {"description": "Busy"}), id="a status is there besides"),
    pytest.param(at(f"{GET} security 0 apiKey 0", "read"), id="nothing is changed"),
    pytest.param(at(f"{POST} security 0 apiKey 0", "read"), id="a role with fewer rights will do"),
    pytest.param(at(f"{POST} security", [{"apiKey": ["write"]}, {"basic": []}]), id="another kind of key will do too"),
    pytest.param(at(f"{GET} parameters 0 schema maximum", 10), id="a parameter has a larger range"),
    pytest.param(
        at(f"{TAKEN} properties name", {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "integer"}]}),
        id="a number is taken besides",
    ),
    pytest.param(at(f"{TAKEN} properties size default", 1), id="a member has a default"),
    pytest.param(without(f"{TAKEN} properties at format"), id="a text need not be an instant"),
    pytest.param(at(f"{SHOWN} properties name format", "uuid"), id="a text is shown to be an id"),
    pytest.param(at(f"{TAKEN} properties note", {"type": "string"}), id="a member is taken besides"),
    pytest.param(at(f"{TAKEN} required", []), id="a member may be left out"),
    pytest.param(at(f"{TAKEN} properties kind enum", ["a", "b", "c"]), id="a value is taken besides"),
    pytest.param(at(f"{SHOWN} properties note", {"type": "string"}), id="a member is shown besides"),
    pytest.param(at(f"{SHOWN} properties size type", "integer"), id="null is not shown any more"),
    pytest.param(at(CONFLICT, ["x", "y", "z"]), id="a code of a problem is there besides"),
    pytest.param(
        both(at("components schemas Item", thing()), at(SHOWN, {"$ref": "#/components/schemas/Item"})),
        id="a schema has another name",
    ),
]


@pytest.mark.parametrize(("change", "line"), BREAKING)
def test_what_breaks_callers(change: Change, line: str) -> None:
    """A removal or a narrowing is reported in lines that say what is missed."""
    new = copy.deepcopy(document())
    change(new)
    found = breaks(document(), new)
    assert found
    assert all(line in one for one in found), found


@pytest.mark.parametrize("change", HARMLESS)
def test_what_breaks_nobody(change: Change) -> None:
    """An addition is not reported."""
    new = copy.deepcopy(document())
    change(new)
    assert breaks(document(), new) == []


def test_callers_of_the_last_release() -> None:
    """Nothing that the last release's document describes was taken away."""
    assert breaks(json.loads(RELEASED.read_bytes()), json.loads(CURRENT.read_bytes())) == []
