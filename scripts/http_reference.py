"""Makes the page of the HTTP API from the OpenAPI document."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Json = Mapping[str, Any]

INTRODUCTION: Final = """\
# HTTP API

Every operation, made of the OpenAPI document that a server has at `/openapi.json`, and this site as
[openapi.json](openapi.json). A running server shows it at `/docs` too, where requests can be tried. What callers need
to know beyond it is in [Requests](requests.md), and what each problem means in [Problems](problems.md)."""
# Parameters of every operation, which are not listed for each.
EVERYWHERE: Final = {"X-Request-Id"}
PROBLEM: Final = "application/problem+json"
_BAR: Final = str.maketrans({"|": r"\|", "\n": " "})


def page(document: Json) -> str:
    """Return the page."""
    everywhere = _codes_of_all(document)
    lines = [INTRODUCTION, "", f"Any operation may answer {_links(everywhere)} too, and does not say so again."]
    for tag in document["tags"]:
        lines += ["", f"## {tag['name']}", "", tag["description"]]
        for path, method, operation in _operations(document):
            if tag["name"] in operation["tags"]:
                lines += _operation(document, path, method, operation, everywhere)
    lines += ["", "## Types"]
    for name, schema in document["components"]["schemas"].items():
        if name == "Problem" or not name.endswith("Problem"):
            lines += _type(name, schema)
    return "\n".join(lines) + "\n"


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _operation(document: Json, path: str, method: str, operation: Json, everywhere: frozenset[str]) -> Iterator[str]:
    yield from ("", f"### {operation['summary']} {{#{operation['operationId']}}}", "", f"`{method} {path}`", "")
    yield operation.get("description", "")
    yield from _parameters(document, operation)
    body = operation.get("requestBody")
    if body is not None:
        content = body["content"]["application/json"]
        yield from ("", f"Body{'' if body.get('required') else ', which may be left out'}: {_name(content['schema'])}")
        for example in content.get("examples", {}).values():
            shown = json.dumps(example["value"], indent=2, ensure_ascii=False)
            yield from ("", f"{example['summary']}:", "", "```json", shown, "```")
    yield from ("", "| status | answer |", "| --- | --- |")
    for status, answer in operation["responses"].items():
        content = _resolved(document, answer).get("content", {})
        if PROBLEM not in content:
            yield f"| {status} | {_forms(content)} |"
        elif codes := _codes(document, content[PROBLEM]["schema"]) - everywhere:
            yield f"| {status} | {_links(codes)} |"


def _parameters(document: Json, operation: Json) -> Iterator[str]:
    found = [_resolved(document, parameter) for parameter in operation.get("parameters", ())]
    shown = [parameter for parameter in found if parameter["name"] not in EVERYWHERE]
    if shown:
        yield from ("", "| parameter | in | type | meaning |", "| --- | --- | --- | --- |")
    for parameter in shown:
        needed = "" if not parameter.get("required") or parameter["in"] == "path" else " Required."
        meaning = (parameter.get("description", "") + needed).translate(_BAR)
        yield f"| `{parameter['name']}` | {parameter['in']} | {_name(parameter['schema'])} | {meaning} |"


def _forms(content: Json) -> str:
    names = (_name(form["schema"]) if kind == "application/json" else f"`{kind}`" for kind, form in content.items())
    return ", ".join(names)


def _codes_of_all(document: Json) -> frozenset[str]:
    """Return the codes of the problems that every operation with a key can answer."""
    found = [
        frozenset[str]().union(
            *(
                _codes(document, content[PROBLEM]["schema"])
                for answer in operation["responses"].values()
                if PROBLEM in (content := _resolved(document, answer).get("content", {}))
            )
        )
        for *_, operation in _operations(document)
        if operation.get("security")
    ]
    return frozenset.intersection(*found)


def _codes(document: Json, schema: Json) -> frozenset[str]:
    """Return the codes that a problem's type allows; if it combines types with `allOf`, those that all allow."""
    schema = _resolved(document, schema)
    parts = [_codes(document, part) for part in schema.get("allOf", ())]
    if parts:
        return frozenset.intersection(*parts)
    code = schema["properties"]["code"]
    return frozenset(code.get("enum", [code["const"]] if "const" in code else []))


def _links(codes: Iterable[str]) -> str:
    return ", ".join(f"[`{code}`](problems.md#{code})" for code in sorted(codes))


def _type(name: str, schema: Json) -> Iterator[str]:
    yield from ("", f"### {name} {{#{name.lower()}}}", "", schema.get("description", ""))
    members = schema.get("properties", {})
    required = set(schema.get("required", ()))
    if members:
        yield from ("", "| member | type | meaning |", "| --- | --- | --- |")
    for member, of in members.items():
        default = "" if member in required or "default" not in of else f" `{json.dumps(of['default'])}` by default."
        meaning = (of.get("description", "") + default).translate(_BAR)
        yield f"| `{member}` | {_name(of)} | {meaning} |"


def _name(schema: Json) -> str:
    """Return the name of a type, with a link if it has its own section."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _either(_name(part) for part in schema[word])
    if "const" in schema or "enum" in schema:
        return _either(f"`{json.dumps(one)}`" for one in schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type", "any")
    return _either(_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _kind(kind: str, schema: Json) -> str:
    if kind == "array" and "items" in schema:
        return f"list of {_name(schema['items'])}"
    return schema.get("format", kind) if kind == "string" else kind


def _either(names: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(names))


def _resolved(document: Json, part: Json) -> Json:
    """Return the part that a reference points to, or the part itself."""
    if "$ref" not in part:
        return part
    found: Any = document
    for word in part["$ref"].removeprefix("#/").split("/"):
        found = found[word]
    return _resolved(document, found)
