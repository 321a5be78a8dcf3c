"""JSON schemas of the types of requests and answers."""

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
# Types to which hand-written schemas of other types refer.
_NAMED: Final = (models.AccountCreate, models.TransferItem, models.ChildItem, AccountBody, TransferNow, ProblemBody)
# Types that only find out which of several bodies was sent, and those bodies.
_STAND_FOR: Final[Mapping[Any, tuple[Any, ...]]] = {models.Preview: (models.TransferCreate, models.TransferBulk)}
_NULL: Final = {"type": "null"}
# The names of types for callers, if they differ from the names in the code.
_NAMES: Final = {"Envelope": "Event", "EventsBody": "EventPage"}
_HOLDS_EXPIRE: Final = {
    "if": {"properties": {"expires_in": {"type": "integer"}}, "required": ["expires_in"]},
    "then": {"properties": {"hold": {"const": True}}, "required": ["hold"]},
}
# Rules for members that go together, which types cannot express.
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
    """Return the schemas of all named types, by name."""
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
    """Return the schema of a type: a reference if the type has a name."""
    return one_of(_STAND_FOR[kind]) if kind in _STAND_FOR else {**_generated(kind)[0]}


def one_of(kinds: Iterable[Any]) -> dict[str, Any]:
    """Return the schema of a value that has one of these types."""
    choices = [schema(kind) for kind in kinds]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def reference(name: str) -> dict[str, str]:
    """Return a reference to a schema."""
    return {"$ref": _REFERENCE.format(name=name)}


@cache
def _generated(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a type, and the schemas of all types that it refers to."""
    (made,), named = msgspec.json.schema_components((kind,), schema_hook=parameters.schema, ref_template=_REFERENCE)
    return _tidied(made), {_name(name): _tidied(value) for name, value in named.items()}


def _types() -> Iterable[Any]:
    for route in ROUTES:
        if route.body is not None:
            yield from _STAND_FOR.get(route.body, (route.body,))
        for status in route.answers:
            yield from (form for form in route.forms(status) if not isinstance(form, Text))


def _name(name: str) -> str:
    """Return the name of a type for callers: `AccountPage` for `Page[AccountBody]`."""
    generic = _GENERIC.fullmatch(name)
    return f"{generic['item']}{generic['of']}" if generic else _NAMES.get(name, name.removesuffix("Body"))


def _tidied(value: Any) -> Any:
    """Return a schema with the names of types for callers, in the usual short form."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if not isinstance(value, dict):
        return value
    # Titles are left out; a member called `title` stays.
    made = {key: _tidied(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}
    if isinstance(made.get("$ref"), str):
        made["$ref"] = reference(_name(made["$ref"].rpartition("/")[2]))["$ref"]
    if isinstance(made.get("pattern"), str):
        # Elsewhere, `$` means only the end of the text, which Python writes as `\Z`.
        made["pattern"] = made["pattern"].replace(r"\Z", "$")
    if isinstance(made.get("enum"), list) and all(isinstance(item, str) for item in made["enum"]):
        made["type"] = "string"
    return _nullable(made)


def _nullable(made: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that is "one type or null" in the short form, with a list of types."""
    choices = made.get("anyOf", [])
    if len(choices) != 2 or choices[1] != _NULL or "type" not in choices[0]:
        return made
    (one, _) = choices
    others = {key: item for key, item in made.items() if key != "anyOf"}
    enum = {"enum": [*one["enum"], None]} if "enum" in one else {}
    return {**one, "type": [one["type"], "null"], **enum, **others}
