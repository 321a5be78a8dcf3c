"""JSON schemas of the types that read requests and write answers."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from server.events.feed import TYPES, Envelope
from server.http import models, parameters
from server.http.members import ProblemBody
from server.http.render import AccountBody, TransferNow
from server.http.route import Text
from server.http.routes import ROUTES

_REFERENCE: Final = "#/components/schemas/{name}"
# Types that others name in schemas of their own.
_NAMED: Final = (models.AccountCreate, models.TransferItem, models.ChildItem, AccountBody, TransferNow, ProblemBody)
# Bodies that tell only which of several there is.
_STAND_FOR: Final[Mapping[Any, tuple[Any, ...]]] = {models.Preview: (models.TransferCreate, models.TransferBulk)}
_NULL: Final = {"type": "null"}
# What callers know types by, where that is not the name in the code.
_NAMES: Final = {"Envelope": "Event", "EventsBody": "EventPage"}
_HOLDS_EXPIRE: Final = {
    "if": {"properties": {"expires_in": {"type": "integer"}}, "required": ["expires_in"]},
    "then": {"properties": {"hold": {"const": True}}, "required": ["hold"]},
}
# What no type says of members that go together.
_RULES: Final[Mapping[str, Any]] = {
    "TransferCreate": _HOLDS_EXPIRE,
    "TransferItem": _HOLDS_EXPIRE,
    "ChildItem": {
        "if": {"required": ["parent"]},
        "then": {"not": {"required": ["parent_key"]}},
        "else": {"required": ["parent_key"]},
    },
}
_GENERIC: Final = re.compile(r"(?P<of>Page|Results)_(?P<item>\w+?)(?:Body|Result)?_")


def components() -> dict[str, Any]:
    """Return the schemas of all types that have a name, by name."""
    found: dict[str, Any] = {}
    for kind in (*_NAMED, Envelope, *_types()):
        _, named = _generated(kind)
        found.update(named)
    found["Event"]["properties"] |= {
        "type": {"type": "string", "enum": [f"tallystick.{name}.v1" for name in TYPES]},
        "data": one_of((TransferNow, AccountBody)),
    }
    for name, rule in _RULES.items():
        found[name] |= rule
    return dict(sorted(found.items()))


def schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type: a reference where the type has a name."""
    return one_of(_STAND_FOR[kind]) if kind in _STAND_FOR else {**_generated(kind)[0]}


def one_of(kinds: Iterable[Any]) -> dict[str, Any]:
    """Return the schema of what is of one of these types."""
    choices = [schema(kind) for kind in kinds]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def reference(name: str) -> dict[str, str]:
    """Return a reference to a schema."""
    return {"$ref": _REFERENCE.format(name=name)}


@cache
def _generated(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a type, and those of all that it names."""
    (made,), named = msgspec.json.schema_components((kind,), schema_hook=parameters.schema, ref_template=_REFERENCE)
    return _tidied(made), {_name(name): _tidied(value) for name, value in named.items()}


def _types() -> Iterable[Any]:
    for route in ROUTES:
        if route.body is not None:
            yield from _STAND_FOR.get(route.body, (route.body,))
        for status in route.answers:
            yield from (form for form in route.forms(status) if not isinstance(form, Text))


def _name(name: str) -> str:
    """Return what callers know a type by: `AccountPage` is `Page[AccountBody]`."""
    generic = _GENERIC.fullmatch(name)
    return f"{generic['item']}{generic['of']}" if generic else _NAMES.get(name, name.removesuffix("Body"))


def _tidied(value: Any) -> Any:
    """Return a schema with the names that callers know types by, as short as others write it."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if not isinstance(value, dict):
        return value
    # A member may be called `title` as well.
    made = {key: _tidied(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}
    if isinstance(made.get("$ref"), str):
        made["$ref"] = reference(_name(made["$ref"].rpartition("/")[2]))["$ref"]
    if isinstance(made.get("pattern"), str):
        # Python's end of a text, which is the only one that `$` means elsewhere.
        made["pattern"] = made["pattern"].replace(r"\Z", "$")
    if isinstance(made.get("enum"), list) and all(isinstance(item, str) for item in made["enum"]):
        made["type"] = "string"
    return _nullable(made)


def _nullable(made: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of one type or null as that type with null."""
    choices = made.get("anyOf", [])
    if len(choices) != 2 or choices[1] != _NULL or "type" not in choices[0]:
        return made
    (one, _) = choices
    others = {key: item for key, item in made.items() if key != "anyOf"}
    enum = {"enum": [*one["enum"], None]} if "enum" in one else {}
    return {**one, "type": [one["type"], "null"], **enum, **others}
