"""Finds what a newer OpenAPI document takes away from callers of an older one."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.support.declared import whole

Schema = Mapping[str, Any]

METHODS: Final = ("get", "put", "post", "patch", "delete")
# Upper bounds of request values, which may only rise, and lower bounds, which may only fall.
UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
# Keywords that may only stay the same or be removed.
FIXED: Final = (
    *("pattern", "format", "const", "multipleOf", "uniqueItems", "propertyNames", "dependentRequired"),
    *("not", "oneOf", "if", "then", "else"),
)
ROLES: Final = ("read", "write", "admin")


def breaks(old: Schema, new: Schema) -> list[str]:
    """Return what callers of *old* miss in *new*, one line each; additions are not listed."""
    found = [
        f"{kind} {path} {method}: {line}"
        for kind in ("paths", "webhooks")
        for path, operations in old.get(kind, {}).items()
        for method in METHODS
        if method in operations
        for line in _operation(
            Side(old, new), operations[method], new.get(kind, {}).get(path, {}).get(method), sent=kind == "webhooks"
        )
    ]
    return sorted(set(found))


class Side:
    """Both documents, to resolve references."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._documents = old, new

    def look_up(self, old: Schema, new: Schema) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a part of each document, with references resolved and `allOf` merged."""
        return whole(self._documents[0], old), whole(self._documents[1], new)


def _operation(side: Side, old: Schema, new: Schema | None, *, sent: bool) -> Iterator[str]:
    if new is None:
        yield "is gone"
        return
    if old["operationId"] != new["operationId"]:
        yield f"is called {new['operationId']} and no longer {old['operationId']}"
    if _role(new) > _role(old):
        yield "needs a role with more rights"
    if _is_locked(old, new):
        yield "is opened by another kind of key"
    yield from _parameters(side, old, new)
    if "requestBody" in new:
        # Without it, no body was accepted.
        body = old.get("requestBody", {"content": {}, "required": False})
        if new["requestBody"].get("required") and not body.get("required"):
            yield "needs a body"
        yield from _content(side, "body", body, new["requestBody"], taken=not sent)
    elif "requestBody" in old:
        yield "takes no body"
    for status, answer in old["responses"].items():
        if status not in new["responses"]:
            yield f"is not answered with {status}"
            continue
        before, after = side.look_up(answer, new["responses"][status])
        for name in before.get("headers", {}):
            if name not in after.get("headers", {}):
                yield f"{status} has no header field {name}"
        yield from _content(side, status, before, after, taken=sent)


def _role(operation: Schema) -> int:
    roles = [ROLES.index(role) + 1 for need in operation.get("security", ()) for role in need.get("apiKey", ())]
    return max(roles, default=0)


def _is_locked(old: Schema, new: Schema) -> bool:
    """Return whether a caller with the keys for one of the old alternatives lacks a key for each new one."""
    had, needs = (found.get("security") or [{}] for found in (old, new))
    return any(not any(set(need) <= set(keys) for need in needs) for keys in had)


def _parameters(side: Side, old: Schema, new: Schema) -> Iterator[str]:
    before, after = (
        {(found["in"], found["name"]): found for found in (side.look_up(part, part)[number] for part in parts)}
        for number, parts in enumerate((old.get("parameters", ()), new.get("parameters", ())))
    )
    for key, parameter in before.items():
        if key not in after:
            yield f"parameter {key[1]} is gone"
        else:
            yield from _schema(side, f"parameter {key[1]}", parameter["schema"], after[key]["schema"], taken=True)
    for key, parameter in after.items():
        if parameter.get("required") and not before.get(key, {}).get("required"):
            yield f"parameter {key[1]} is required"


def _content(side: Side, where: str, old: Schema, new: Schema, *, taken: bool) -> Iterator[str]:
    for media, form in old.get("content", {}).items():
        if media not in new.get("content", {}):
            yield f"{where} is no {media}"
        else:
            yield from _schema(side, where, form["schema"], new["content"][media]["schema"], taken=taken)


def _schema(side: Side, where: str, old: Schema, new: Schema, *, taken: bool) -> Iterator[str]:
    """
    Find what a value loses.

    Args:
        taken: Whether it is part of a request rather than of an answer.
    """
    before, after = side.look_up(old, new)
    yield from _choices(side, where, before, after, taken=taken)
    yield from _types(where, before, after, taken=taken)
    if "enum" in after and set(map(repr, before.get("enum", ()))) - set(map(repr, after["enum"])):
        yield f"{where} has lost a value"
    if taken:
        yield from _bounds(where, before, after)
        if "default" in before and before["default"] != after.get("default"):
            yield f"{where} has another default"
    elif "format" in before and after.get("format") != before["format"]:
        yield f"{where} has another format"
    yield from _members(side, where, before, after, taken=taken)
    for key in ("items", "additionalProperties"):
        if isinstance(before.get(key), Mapping) and isinstance(after.get(key), Mapping):
            yield from _schema(side, f"{where}/*", before[key], after[key], taken=taken)
        elif taken and isinstance(after.get(key), Mapping) and before.get(key, True) is True:
            yield f"{where}/* has a schema"


def _choices(side: Side, where: str, old: Schema, new: Schema, *, taken: bool) -> Iterator[str]:
    """Find what a choice loses: in a request each option must stay, in an answer none may be added."""
    if "anyOf" not in old and "anyOf" not in new:
        return
    # A value without a choice is the only option.
    before, after = old.get("anyOf", [old]), new.get("anyOf", [new])
    for choice in before if taken else after:
        pairs = [(choice, other) if taken else (other, choice) for other in (after if taken else before)]
        if not any(not list(_schema(side, where, *pair, taken=taken)) for pair in pairs):
            yield f"{where} is of another choice"


def _types(where: str, old: Schema, new: Schema, *, taken: bool) -> Iterator[str]:
    before, after = (
        set() if "type" not in part else {part["type"]} if isinstance(part["type"], str) else set(part["type"])
        for part in (old, new)
    )
    if (taken and after and (before - after or not before)) or (not taken and before and (after - before or not after)):
        yield f"{where} is of another type"


def _bounds(where: str, old: Schema, new: Schema) -> Iterator[str]:
    for key in UPPER:
        if key in new and new[key] < old.get(key, float("inf")):
            yield f"{where} has a smaller {key}"
    for key in LOWER:
        if key in new and new[key] > old.get(key, float("-inf")):
            yield f"{where} has a larger {key}"
    for key in FIXED:
        if key in new and new[key] != old.get(key):
            yield f"{where} has another {key}"
    if "enum" in new and "enum" not in old:
        yield f"{where} has only some values"


def _members(side: Side, where: str, old: Schema, new: Schema, *, taken: bool) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name, member in before.items():
        if name not in after:
            yield f"{where}/{name} is gone"
        else:
            yield from _schema(side, f"{where}/{name}", member, after[name], taken=taken)
    needed, given = (set(part.get("required", ())) for part in (old, new))
    for name in sorted(given - needed if taken else (needed - given) & set(after)):
        yield f"{where}/{name} is {'required' if taken else 'left out at times'}"
    if taken and new.get("additionalProperties") is False and old.get("additionalProperties", True) is not False:
        yield f"{where} takes no other members"
