"""The limits of an account at their edges: floors, ceilings, 64 bits, conditions, closing, and version counting."""

from typing import Any

import pytest

from tests.api.steps import bulk, codes, order
from tests.support.client import Client

MAX = 2**63 - 1
MIN = -(2**63)


async def _with_balance(client: Client, account: str, balance: int, **limits: object) -> None:
    """Open an account without limits, bring it to *balance*, and then set its limits."""
    await client.open(account, floor=None)
    other = f"{account}-other-side"
    await client.open(other, floor=None)
    while balance:
        # -2^63 takes two transfers, because an amount is at most 2^63-1.
        amount = min(abs(balance), MAX)
        sides = (other, account) if balance > 0 else (account, other)
        assert (await client.transfer(*sides, amount)).status == 201
        balance += -amount if balance > 0 else amount
        if balance:
            other += "s"
            await client.open(other, floor=None)
    if limits:
        assert (await client.send("PATCH", f"/v1/accounts/{account}", limits)).status == 200


@pytest.mark.parametrize(
    ("balance", "floor", "enough"),
    [
        pytest.param(100, 0, 100, id="all of it"),
        pytest.param(100, 30, 70, id="a floor above zero stays behind"),
        pytest.param(100, -50, 150, id="a floor below zero is credit"),
        pytest.param(0, -1, 1, id="credit without a balance"),
        pytest.param(-20, -50, 30, id="what is left of a credit"),
        pytest.param(MAX, 0, MAX, id="the largest balance"),
        pytest.param(-2, MIN, MAX - 1, id="a floor at the end of 64 bits"),
        pytest.param(MAX, MAX - 1, 1, id="a floor just below the largest balance"),
    ],
)
async def test_exactly_enough_is_enough(client: Client, balance: int, floor: int, enough: int) -> None:
    """A transfer may take the source down to exactly its floor, and not one unit further."""
    await _with_balance(client, "alice", balance, floor=floor)
    await client.open("bob")
    if enough < MAX:
        refused = await client.transfer("alice", "bob", enough + 1)
        assert (refused.status, refused.code, refused.json["pointer"]) == (409, "insufficient_funds", "/source")
        assert await client.balance("alice") == balance
    posted = await client.transfer("alice", "bob", enough)
    assert (posted.status, posted.json["source_balance"], posted.json["destination_balance"]) == (201, floor, enough)
    assert (await client.transfer("alice", "bob", 1)).code == "insufficient_funds"


@pytest.mark.parametrize(
    ("balance", "ceiling", "room"),
    [
        pytest.param(0, 100, 100, id="from nothing"),
        pytest.param(60, 100, 40, id="what is left"),
        pytest.param(-50, 0, 50, id="a ceiling of zero"),
        pytest.param(-50, -10, 40, id="a ceiling below zero"),
        pytest.param(0, MAX, MAX, id="a ceiling at the end of 64 bits"),
        pytest.param(MAX - 5, MAX, 5, id="the last units of 64 bits"),
    ],
)
async def test_an_exact_fit_fits(client: Client, balance: int, ceiling: int, room: int) -> None:
    """A transfer may lift the destination to exactly its ceiling, and not one unit further."""
    await _with_balance(client, "bob", balance, floor=None, ceiling=ceiling)
    await client.open("alice", floor=None)
    if room < MAX:
        refused = await client.transfer("alice", "bob", room + 1)
        assert (refused.status, refused.code, refused.json["pointer"]) == (409, "ceiling_exceeded", "/destination")
        assert await client.balance("bob") == balance
    posted = await client.transfer("alice", "bob", room)
    assert (posted.status, posted.json["destination_balance"]) == (201, ceiling)
    assert (await client.transfer("alice", "bob", 1)).code == "ceiling_exceeded"


@pytest.mark.parametrize("balance", [MIN, MIN + 1, MIN + MAX - 1])
async def test_a_balance_without_a_floor_ends_with_64_bits(client: Client, balance: int) -> None:
    """A source without a floor may reach -2^63; a transfer beyond that is refused, never wrapped."""
    await _with_balance(client, "alice", balance)
    await client.open("bob")
    room = balance - MIN
    if room:
        assert (await client.transfer("alice", "bob", room)).json["source_balance"] == MIN
    for amount in (1, MAX):
        refused = await client.transfer("alice", "bob", amount)
        assert (refused.status, refused.code, refused.json["pointer"]) == (409, "balance_overflow", "/source")
    assert await client.balance("alice") == MIN


@pytest.mark.parametrize("balance", [MAX, MAX - 1, 1])
async def test_a_balance_without_a_ceiling_ends_with_64_bits(client: Client, balance: int) -> None:
    """A destination without a ceiling may reach 2^63-1; a transfer beyond that is refused, never wrapped."""
    await _with_balance(client, "bob", balance)
    await client.open("alice", floor=None)
    if balance < MAX:
        assert (await client.transfer("alice", "bob", MAX - balance)).json["destination_balance"] == MAX
    refused = await client.transfer("alice", "bob", 1)
    assert (refused.status, refused.code, refused.json["pointer"]) == (409, "balance_overflow", "/destination")
    assert await client.balance("bob") == MAX


async def test_a_floor_above_the_balance_stops_only_what_goes_out(client: Client) -> None:
    """An account below its floor can receive but not pay."""
    await client.fund("alice", 10)
    await client.open("bob")
    await client.send("PATCH", "/v1/accounts/alice", {"floor": 50, "ceiling": 60})
    assert (await client.transfer("alice", "bob", 1)).code == "insufficient_funds"
    assert (await client.transfer("world", "alice", 50)).status == 201
    assert (await client.transfer("alice", "bob", 10)).status == 201


async def test_a_ceiling_below_the_balance_stops_only_what_comes_in(client: Client) -> None:
    """An account above its ceiling can pay but not receive."""
    await client.fund("alice", 100)
    await client.open("bob")
    await client.send("PATCH", "/v1/accounts/alice", {"ceiling": 20})
    assert (await client.transfer("world", "alice", 1)).code == "ceiling_exceeded"
    assert (await client.transfer("alice", "bob", 1)).status == 201


@pytest.mark.parametrize(
    ("conditions", "pointer"),
    [
        pytest.param({"source_version": 2}, None, id="the source's version"),
        pytest.param({"source_version": 1}, "source_version", id="the source's version before"),
        pytest.param({"source_version": 3}, "source_version", id="the source's version to come"),
        pytest.param({"source_version": MAX}, "source_version", id="the largest version"),
        pytest.param({"source_version": 0}, "source_version", id="no version"),
        pytest.param({"destination_version": 1}, None, id="the destination's version"),
        pytest.param({"destination_version": 0}, "destination_version", id="the destination's version before"),
        pytest.param({"destination_version": 2}, "destination_version", id="the destination's version to come"),
        pytest.param({"source_available_gte": 100}, None, id="exactly available"),
        pytest.param({"source_available_gte": 101}, "source_available_gte", id="one more than available"),
        pytest.param({"source_available_gte": MIN}, None, id="always available"),
        pytest.param({"source_version": 2, "destination_version": 1, "source_available_gte": 100}, None, id="all hold"),
        pytest.param({"source_version": None, "destination_version": None}, None, id="none asked"),
        pytest.param({}, None, id="no condition"),
    ],
)
async def test_conditions_hold_exactly(client: Client, conditions: dict[str, object], pointer: str | None) -> None:
    """Each condition is compared with the account at the moment of posting."""
    await client.fund("alice", 100)
    await client.open("bob")
    answer = await client.transfer("alice", "bob", 10, conditions=conditions)
    if pointer is None:
        assert answer.status == 201
    else:
        assert (answer.status, answer.code) == (409, "condition_failed")
        assert answer.json["pointer"] == f"/conditions/{pointer}"
        assert await client.balance("bob") == 0


async def test_conditions_see_what_the_bulk_did_before(client: Client) -> None:
    """An item's conditions see the effect of the items before it."""
    await client.fund("alice", 100)
    await client.open("bob")
    wanted = [{"source_version": 2}, {"source_version": 2}, {"source_version": 3, "source_available_gte": 90}]
    items = [{"key": str(n), **order(conditions=conditions)} for n, conditions in enumerate(wanted)]
    assert codes(await bulk(client, items)) == [201, "condition_failed", 201]


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_closed_account_takes_no_part(client: Client, side: str) -> None:
    """A closed account neither pays nor receives; reopened, it does both."""
    await client.fund("alice", 100)
    await client.open("bob")
    account = {"source": "alice", "destination": "bob"}[side]
    for closed in (True, False):
        patched = await client.send("PATCH", f"/v1/accounts/{account}", {"closed": closed})
        assert patched.json["closed"] is closed
        answer = await client.transfer("alice", "bob", 10)
        expected: tuple[int, Any] = (409, f"/{side}") if closed else (201, None)
        assert (answer.status, answer.json.get("pointer")) == expected


async def test_versions_count_what_touched_the_account(client: Client) -> None:
    """Each transfer, on both sides, and each change adds one version; refusals and replays add none."""
    await client.fund("alice", 100)
    await client.open("bob")

    async def versions() -> list[int]:
        return [(await client.account(account))["version"] for account in ("alice", "bob")]

    assert await versions() == [2, 1]
    first = await client.transfer("alice", "bob", 10, "pay")
    assert [first.json["source_version"], first.json["destination_version"]] == await versions() == [3, 2]
    await client.transfer("alice", "bob", 10, "pay")
    await client.transfer("alice", "bob", 1_000)
    await client.open("bob")
    assert await versions() == [3, 2]
    await client.send("PATCH", "/v1/accounts/bob", {"metadata": {"k": "v"}})
    assert await versions() == [3, 3]
    results = await bulk(client, [{"key": str(n), **order(amount=1)} for n in range(5)])
    assert [result["transfer"]["source_version"] for result in results] == [4, 5, 6, 7, 8]
    assert [result["transfer"]["destination_version"] for result in results] == [4, 5, 6, 7, 8]
    assert await versions() == [8, 8]
