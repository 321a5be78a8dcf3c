"""Looking up what a key is bound to, for callers that lost their answer."""

from urllib.parse import quote

import pytest

from tests.api.steps import bound, order, post
from tests.support.client import Client


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


async def test_a_key_shows_its_transfer(funded: Client) -> None:
    """A key bound to a posted transfer shows its first answer, and what became of the transfer since."""
    posted = await post(funded, order(reference="r"), "posted")
    answer = await bound(funded, "posted")
    assert answer.status == 200
    assert answer.json == {**posted.json, "hold": None, "reversed": 0}
    assert answer.json == (await funded.get(f"/v1/transfers/{posted.json['id']}")).json


async def test_a_key_shows_its_refusal(funded: Client) -> None:
    """A key bound to a refusal shows the attempt and the refusal."""
    refused = await post(funded, order(amount=101), "refused")
    answer = await bound(funded, "refused")
    body = answer.json
    assert (answer.status, body["state"], body["problem"]) == (200, "refused", refused.json)
    sides = ("source_balance", "destination_balance", "source_version", "destination_version")
    assert {body[name] for name in sides} == {None}
    assert (body["source"], body["destination"], body["amount"]) == ("alice", "bob", 101)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("nobody-used-this", id="a key nobody used"),
        pytest.param("%22nobody%22", id="a quoted key nobody used"),
        pytest.param("a%20b", id="what cannot be a key"),
        pytest.param("%ff%fe", id="what is not text"),
        pytest.param("k" * 256, id="what is too long for a key"),
        pytest.param("%22open", id="a quote that is not closed"),
    ],
)
async def test_what_is_not_bound_is_not_found(funded: Client, path: str) -> None:
    """An unbound or malformed key is a 404."""
    answer = await funded.get(f"/v1/idempotency-keys/{path}")
    assert (answer.status, answer.code) == (404, "idempotency_key_not_found")
    assert "outcome" not in answer.json


@pytest.mark.parametrize(
    ("header", "paths"),
    [
        pytest.param("plain-1", ["plain-1", "%70lain-1", "%22plain-1%22"], id="plain"),
        pytest.param('"quoted"', ["quoted", "%22quoted%22"], id="quoted when it was sent"),
        pytest.param("order/7?x=1&y#z", [quote("order/7?x=1&y#z", safe=""), "order/7%3Fx=1&y%23z"], id="URL signs"),
        pytest.param("100%", ["100%25", "%22100%25%22"], id="a percent sign"),
        pytest.param("a%2Fb", ["a%252Fb"], id="what looks like an escape"),
        pytest.param('a"b', ["a%22b", "%22a%5C%22b%22"], id="a quote inside"),
        pytest.param("a+b", ["a+b", "a%2Bb"], id="a plus sign, which is no space here"),
        pytest.param("../accounts", ["..%2Faccounts"], id="dots"),
    ],
)
async def test_a_key_is_found_however_it_is_written(funded: Client, header: str, paths: list[str]) -> None:
    """The path may hold the key raw, percent-encoded or quoted."""
    posted = await post(funded, order(), header)
    assert posted.status == 201
    for path in paths:
        answer = await funded.get(f"/v1/idempotency-keys/{path}")
        assert (answer.status, answer.json.get("id")) == (200, posted.json["id"]), path
