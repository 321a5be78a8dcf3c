"""The OpenAPI document matches the route table, is valid, and is the same bytes everywhere."""

import json
import subprocess
import sys
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import validate

from server.http.openapi import document
from server.http.problems import KINDS
from server.http.route import NAME, Route
from server.http.routes import ROUTES
from tests.api.probes import route_name
from tests.contract.compatibility import METHODS
from tests.contract.documents import CURRENT
from tests.support.client import Client
from tests.support.declared import whole
from tests.support.service import Service

WRITES = [route for route in ROUTES if route.body is not None]
PRINT = "import sys; from server.http.openapi import document; sys.stdout.buffer.write(document())"


@pytest.fixture(scope="module")
def described() -> Any:
    """The document, decoded."""
    return json.loads(document())


def operation(described: Any, route: Route) -> Any:
    """Return the operation of a route."""
    return described["paths"][route.path][route.method.lower()]


def test_it_is_valid(described: Any) -> None:
    """The document is valid OpenAPI 3.1, and its references resolve."""
    validate(described)


def test_it_is_the_same_in_every_process() -> None:
    """Two processes with different orders of sets write the same bytes, which are those in the repository."""
    written = [
        subprocess.run([sys.executable, "-c", PRINT], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    assert written[0].stdout == written[1].stdout == document()
    assert CURRENT.read_bytes() == document(), "run .venv/bin/python scripts/openapi.py, and look at the difference"


async def test_it_is_served(service: Service) -> None:
    """Anybody may read the document, and a client that has it gets a 304."""
    client = Client(service.session, service.url, None)
    answer = await client.get("/openapi.json")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "application/json", document())
    kept = await client.get("/openapi.json", If_None_Match=answer.headers["ETag"])
    assert (kept.status, kept.body, kept.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    assert (await client.get("/openapi.json", If_None_Match='"another"')).status == 200


def test_every_route_is_an_operation(described: Any) -> None:
    """The document has exactly the routes of the table, each named after its handler."""
    operations = {
        (method.upper(), path): found["operationId"]
        for path, methods in described["paths"].items()
        for method, found in methods.items()
        if method in METHODS
    }
    assert operations == {(route.method, route.path): route.operation for route in ROUTES}
    assert len(set(operations.values())) == len(operations)


@pytest.mark.parametrize("route", ROUTES, ids=route_name)
def test_what_an_operation_says(described: Any, route: Route) -> None:
    """Role, summary, key and codes by status are those of the table; parameters have descriptions and examples."""
    found = operation(described, route)
    roles = [] if route.role is None else [{"apiKey": [route.role.name.lower()]}]
    assert found["security"] == roles
    assert found["summary"] == route.summary
    assert not route.summary.endswith(".")
    parameters = [whole(described, parameter) for parameter in found["parameters"]]
    names = {parameter["name"] for parameter in parameters}
    assert ("Idempotency-Key" in names) == route.takes_key
    assert ("id" in names) == (NAME in route.path)
    for parameter in parameters:
        assert parameter["description"], parameter["name"]
        assert "example" in parameter or parameter["name"] == "cursor", parameter["name"]
    codes = {
        (int(status), code)
        for status, answer in found["responses"].items()
        for form in whole(described, answer).get("content", {}).values()
        for code in whole(described, form["schema"]).get("properties", {}).get("code", {}).get("enum", ())
        if int(status) >= 400
    }
    # Every path can refuse a method.
    assert codes == {(KINDS[code].status, code) for code in {*route.codes, "method_not_allowed"}}
    assert whole(described, whole(described, found["responses"]["405"])["headers"]["Allow"])["required"]
    assert {int(status) for status in found["responses"]} == {*route.answers, *(status for status, _ in codes)}


@pytest.mark.parametrize("route", WRITES, ids=route_name)
def test_every_body_has_an_example(described: Any, route: Route) -> None:
    """Every operation with a body has examples that match its schema."""
    assert route.examples, f"{route.operation} has no examples"
    form = operation(described, route)["requestBody"]["content"]["application/json"]
    for example in form["examples"].values():
        errors = Draft202012Validator({**form["schema"], "components": described["components"]}).iter_errors(
            example["value"]
        )
        assert [error.message for error in errors] == [], example["summary"]


def test_every_code_is_described(described: Any) -> None:
    """Every code is listed, including those of other paths and methods."""
    assert described["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == list(KINDS)


def test_every_schema_is_used(described: Any) -> None:
    """Every component is used."""
    text = document().decode()
    for kind in ("schemas", "responses", "parameters", "headers"):
        for name in described["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, name
