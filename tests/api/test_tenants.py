"""Isolation of ledgers: another ledger's resources are answered like resources that do not exist."""

import re

import pytest

from server.http.route import Route
from tests.api.probes import GUARDED, NAMING, Names, body_of, furnish, new_names, path_of, probe, route_name
from tests.support.client import Answer, Client
from tests.support.service import Service


@pytest.fixture
async def stranger(service: Service, ledger: str) -> Client:
    """A client with an admin key of another ledger."""
    return await service.client(f"{ledger}-stranger")


def comparable(answer: Answer, names: Names) -> tuple[int, dict[str, str], str]:
    """Return an answer without what differs between any two: the requested names, instants and new ids."""
    text = answer.body.decode()
    for field in Names._fields:
        text = text.replace(getattr(names, field), f"<{field}>")
    text = re.sub(r'"(id|created_at|effective_at|secret|token)":"[^"<]*"', r'"\1":""', text)
    headers = {name: value for name, value in answer.headers.items() if name not in ("Date", "Cache-Control")}
    return answer.status, headers, text


@pytest.mark.parametrize("route", GUARDED, ids=route_name)
async def test_what_is_another_ledgers_does_not_exist(client: Client, stranger: Client, route: Route) -> None:
    """With a key of another ledger every route answers as if nothing existed: status, headers and body."""
    names, nothing = await furnish(client), new_names()
    before = [await client.get(path) for path in ("/v1/accounts", "/v1/transfers")]
    theirs = await probe(stranger, route, names, key=names.key, request_id="same")
    absent = await probe(stranger, route, nothing, key=nothing.key, request_id="same")
    assert comparable(theirs, names) == comparable(absent, nothing)
    after = [await client.get(path) for path in ("/v1/accounts", "/v1/transfers")]
    assert [answer.body for answer in after] == [answer.body for answer in before]


async def test_the_probes_do_meet_what_exists(client: Client) -> None:
    """The comparison above can fail: in its own ledger each read of something differs from a read of nothing."""
    names, nothing = await furnish(client), new_names()
    for route in NAMING:
        if route.method == "GET":
            found, absent = await probe(client, route, names), await probe(client, route, nothing)
            assert comparable(found, names) != comparable(absent, nothing), route_name(route)


def test_every_probe_names_what_it_is_about() -> None:
    """Every route's probe names at least one resource of the other ledger."""
    names = new_names()
    for route in NAMING:
        said = path_of(route, names) + repr(body_of(route, names, names.key))
        assert any(name in said for name in names), route_name(route)


async def _reads(client: Client, names: Names, at: str) -> dict[str, bytes]:
    """Return the body of every read of a furnished ledger's two accounts and of its transfers."""
    paths = [
        *("/v1/accounts", "/v1/transfers", f"/v1/transfers/{names.transfer}", f"/v1/idempotency-keys/{names.key}"),
        f"/v1/transfers?reference={names.reference}",
        *[
            path.format(account, names.reference, at)
            for account in (names.account, "other")
            for path in (
                *("/v1/accounts/{0}", "/v1/accounts/{0}/entries", "/v1/accounts/{0}/balance?at={2}"),
                *("/v1/transfers?account={0}", "/v1/transfers?account={0}&reference={1}"),
            )
        ],
    ]
    return {path: (await client.get(path)).body for path in paths}


async def test_ledgers_hold_the_same_names_side_by_side(client: Client, stranger: Client) -> None:
    """Activity in one ledger changes no answer of another with equal accounts, keys and references."""
    mine = await furnish(client)
    at = (await client.transfer("other", mine.account, 1, reference=mine.reference)).json["created_at"]
    before = await _reads(client, mine, at)
    other = await furnish(stranger, mine)
    for sides in (("other", mine.account), (mine.account, "other")):
        at = (await stranger.transfer(*sides, 5, reference=mine.reference)).json["created_at"]
    after = await _reads(client, mine, at)
    for path, again in zip(before, after, strict=True):
        # The requested instants differ; the balances at them do not.
        assert re.sub(rb'"at":"[^"]*"', b"", before[path]) == re.sub(rb'"at":"[^"]*"', b"", after[again]), path
    assert (await stranger.get(f"/v1/transfers/{mine.transfer}")).status == 404
    assert (await client.get(f"/v1/transfers/{other.transfer}")).status == 404


async def test_a_cursor_of_another_ledger_shows_nothing_of_it(client: Client, stranger: Client) -> None:
    """A cursor is a position, not a permission."""
    names = await furnish(client)
    await client.transfer(names.account, "other", 1)
    for path in ("/v1/accounts", "/v1/transfers"):
        cursor = (await client.get(f"{path}?limit=1")).json["next_cursor"]
        answer = await stranger.get(f"{path}?cursor={cursor}")
        assert (answer.status, answer.json) == (200, {"data": [], "next_cursor": None})


async def test_a_transfer_cannot_reach_into_another_ledger(client: Client, stranger: Client) -> None:
    """A transfer between an own account and another ledger's account is refused as `account_not_found`."""
    names = await furnish(client)
    await stranger.open("own", floor=None)
    for source, destination, side in (("own", names.account, "destination"), (names.account, "own", "source")):
        answer = await stranger.transfer(source, destination, 1)
        assert (answer.status, answer.code, answer.json["pointer"]) == (404, "account_not_found", f"/{side}")
