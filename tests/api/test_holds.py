"""Holds, captures and voids: what they reserve, move and release, and how reads show it."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.api.holding import (
    NO_ID,
    figures,
    follow,
    followed,
    held,
    hold,
    paid,
    progress,
    raw_follow,
)
from tests.api.steps import bound, bulk, codes, order, post
from tests.support.client import Client
from tests.support.service import Service

WEEK = timedelta(days=7)
MAX = 2**63 - 1


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


async def test_a_hold_reserves_and_moves_nothing(funded: Client) -> None:
    """A hold reduces the source's available amount, shows as incoming for the destination, and is in no statement."""
    answer = await hold(funded, 30, reference="order-1", description="a room", metadata={"a": "b"})
    document = answer.json
    assert (answer.status, document["kind"], document["state"], document["parent"]) == (201, "hold", "posted", None)
    shown = ("source", "destination", "amount", "currency", "reference", "description", "metadata")
    expected = ["alice", "bob", 30, "EUR", "order-1", "a room", {"a": "b"}]
    assert [document[member] for member in shown] == expected
    assert [document[f"{side}_balance"] for side in ("source", "destination")] == [100, 0]
    assert [document[f"{side}_version"] for side in ("source", "destination")] == [3, 2]
    assert document["effective_at"] == document["created_at"]
    assert await figures(funded, "alice") == (100, 0, 30, 70)
    assert await figures(funded, "bob") == (0, 30, 0, 0)
    assert [(await funded.account(account))["version"] for account in ("alice", "bob")] == [3, 2]
    for account, lines in (("alice", 1), ("bob", 0)):
        assert len((await funded.get(f"/v1/accounts/{account}/entries")).json["data"]) == lines


async def test_a_hold_shows_what_has_become_of_it(funded: Client) -> None:
    """A hold's first answer stays the same; a read adds what remains of it and when it ends."""
    answer = await hold(funded, 30, "a-hold")
    now = (await funded.get(f"/v1/transfers/{answer.json['id']}")).json
    created = datetime.fromisoformat(answer.json["created_at"])
    ends = (created + WEEK).isoformat(timespec="microseconds").replace("+00:00", "Z")
    shown = {"state": "open", "captured": 0, "remaining": 30, "expires_at": ends}
    assert now == {**answer.json, "hold": shown, "reversed": 0}
    assert (await bound(funded, "a-hold")).json == now
    await followed(funded, "capture", answer.json["id"], amount=10)
    now = (await funded.get(f"/v1/transfers/{answer.json['id']}")).json
    assert now == {**answer.json, "hold": {**shown, "state": "captured", "captured": 10, "remaining": 0}, "reversed": 0}


@pytest.mark.parametrize("seconds", [1, 59, 2_592_000])
async def test_a_hold_lives_as_long_as_asked(funded: Client, seconds: int) -> None:
    """A hold ends the given number of seconds after it was posted."""
    answer = await hold(funded, 1, expires_in=seconds)
    now = (await funded.get(f"/v1/transfers/{answer.json['id']}")).json
    created, ends = (datetime.fromisoformat(text) for text in (answer.json["created_at"], now["hold"]["expires_at"]))
    assert ends - created == timedelta(seconds=seconds)


async def test_captures_move_what_was_reserved(funded: Client) -> None:
    """Several captures take parts of a hold; the last takes the rest, and alice's available amount never changes."""
    parent = await held(funded, 30)
    first = await followed(funded, "capture", parent, amount=10, release_rest=False)
    shown = ("kind", "state", "parent", "source", "destination", "amount", "currency")
    assert [first[member] for member in shown] == ["capture", "posted", parent, "alice", "bob", 10, "EUR"]
    assert [first[f"{side}_balance"] for side in ("source", "destination")] == [90, 10]
    assert [first[f"{side}_version"] for side in ("source", "destination")] == [4, 3]
    assert first["effective_at"] == first["created_at"]
    assert await figures(funded, "alice") == (90, 0, 20, 70)
    assert await figures(funded, "bob") == (10, 20, 0, 10)
    assert await progress(funded, parent) == (("open", 10, 20), 0)
    refused = await follow(funded, "capture", parent, amount=21, release_rest=False)
    assert (refused.status, refused.code, refused.json["pointer"]) == (409, "capture_exceeds_hold", "/amount")
    assert (refused.json["outcome"], refused.json["retry"]) == ("refused", "new_key")
    rest = await followed(funded, "capture", parent, release_rest=False)
    assert (rest["amount"], rest["source_balance"], rest["source_version"]) == (20, 70, 5)
    assert await figures(funded, "alice") == (70, 0, 0, 70)
    assert await figures(funded, "bob") == (30, 0, 0, 30)
    assert await progress(funded, parent) == (("captured", 30, 0), 0)
    for account, sign in (("alice", -1), ("bob", 1)):
        lines = (await funded.get(f"/v1/accounts/{account}/entries?limit=2")).json["data"]
        assert [(line["kind"], line["amount"]) for line in lines] == [("capture", sign * 20), ("capture", sign * 10)]
        assert [line["transfer_id"] for line in lines] == [rest["id"], first["id"]]


@pytest.mark.parametrize(
    ("asked", "captured", "remaining"),
    [
        pytest.param({}, 30, 0, id="all that remains"),
        pytest.param({"amount": None}, 30, 0, id="null is all that remains"),
        pytest.param({"amount": 30}, 30, 0, id="the whole amount"),
        pytest.param({"amount": 30, "release_rest": False}, 30, 0, id="the whole amount has no rest to keep"),
        pytest.param({"release_rest": False}, 30, 0, id="all that remains has no rest to keep"),
        pytest.param({"amount": 12}, 12, 0, id="the rest is released unless told otherwise"),
        pytest.param({"amount": 12, "release_rest": True}, 12, 0, id="the rest is released"),
        pytest.param({"amount": 29, "release_rest": False}, 29, 1, id="the rest is kept"),
    ],
)
async def test_what_a_capture_takes_and_leaves(
    funded: Client, asked: dict[str, Any], captured: int, remaining: int
) -> None:
    """What a capture moves, and what it leaves reserved."""
    parent = await held(funded, 30)
    assert (await followed(funded, "capture", parent, **asked))["amount"] == captured
    assert await figures(funded, "alice") == (100 - captured, 0, remaining, 100 - captured - remaining)
    assert await figures(funded, "bob") == (captured, remaining, 0, captured)
    state = "open" if remaining else "captured"
    assert await progress(funded, parent) == ((state, captured, remaining), 0)


@pytest.mark.parametrize("captured", [0, 10])
async def test_a_void_releases_what_remains(funded: Client, captured: int) -> None:
    """A void makes the uncaptured rest available again; captured money stays where it is."""
    parent = await held(funded, 30)
    if captured:
        await followed(funded, "capture", parent, amount=captured, release_rest=False)
    void = await followed(funded, "void", parent)
    assert (void["kind"], void["parent"], void["amount"]) == ("void", parent, 30 - captured)
    assert [void[f"{side}_balance"] for side in ("source", "destination")] == [100 - captured, captured]
    assert await figures(funded, "alice") == (100 - captured, 0, 0, 100 - captured)
    assert await figures(funded, "bob") == (captured, 0, 0, captured)
    assert (await funded.account("alice"))["version"] == void["source_version"]
    assert await progress(funded, parent) == (("voided", captured, 0), 0)
    for account in ("alice", "bob"):
        lines = (await funded.get(f"/v1/accounts/{account}/entries")).json["data"]
        assert "void" not in {line["kind"] for line in lines}


async def test_what_is_held_is_not_available_to_anybody_else(funded: Client) -> None:
    """Transfers and holds may use what other holds leave above the floor, and not one unit more."""
    await held(funded, 60)
    for is_hold in (False, True):
        refused = await funded.transfer("alice", "bob", 41, hold=is_hold)
        assert (refused.code, refused.json["pointer"]) == ("insufficient_funds", "/source")
    condition = {"source_available_gte": 41}
    assert (await funded.transfer("alice", "bob", 1, conditions=condition)).code == "condition_failed"
    assert (await funded.transfer("alice", "bob", 40, conditions={"source_available_gte": 40})).status == 201
    assert await figures(funded, "alice") == (60, 0, 60, 0)


async def test_what_is_held_counts_against_the_ceiling_of_the_destination(funded: Client) -> None:
    """Transfers and holds may fill what other holds leave below the ceiling, and not one unit more."""
    await funded.open("purse", ceiling=50)
    await held(funded, 30, destination="purse")
    for is_hold in (False, True):
        refused = await funded.transfer("alice", "purse", 21, hold=is_hold)
        assert (refused.code, refused.json["pointer"]) == ("ceiling_exceeded", "/destination")
    await paid(funded, 20, destination="purse")
    assert await figures(funded, "purse") == (20, 30, 0, 20)


async def test_held_money_of_the_destination_is_not_spent_before_it_is_captured(funded: Client) -> None:
    """The destination of a hold cannot spend the money before it is captured."""
    parent = await held(funded, 30)
    await funded.open("carol")
    assert (await funded.transfer("bob", "carol", 1)).code == "insufficient_funds"
    await followed(funded, "capture", parent)
    assert (await funded.transfer("bob", "carol", 30)).status == 201


async def test_no_limit_stops_a_capture(funded: Client) -> None:
    """A capture never makes less available than its hold did, so a limit set after the hold does not refuse it."""
    parent = await held(funded, 30)
    for account, changes in (("alice", {"floor": 100}), ("bob", {"ceiling": 0})):
        assert (await funded.send("PATCH", f"/v1/accounts/{account}", changes)).status == 200
    await followed(funded, "capture", parent)
    assert await figures(funded, "bob") == (30, 0, 0, 30)


async def test_holds_end_with_64_bits(client: Client) -> None:
    """A balance plus its holds never leaves 64 bits: what would overflow is refused on either side, never wrapped."""
    for account in ("low", "high", "spare"):
        await client.open(account, floor=None)
    await held(client, MAX, source="low", destination="high")
    for is_hold in (False, True):
        refused = await client.transfer("low", "spare", 2, hold=is_hold)
        assert (refused.code, refused.json["pointer"]) == ("balance_overflow", "/source")
        refused = await client.transfer("spare", "high", 1, hold=is_hold)
        assert (refused.code, refused.json["pointer"]) == ("balance_overflow", "/destination")
    assert await figures(client, "low") == (0, 0, MAX, -MAX)
    assert await figures(client, "high") == (0, MAX, 0, 0)


async def test_what_is_held_ends_with_64_bits(client: Client) -> None:
    """The sum of all holds on one side is refused beyond 64 bits, even if the available amount has room."""
    for account in ("rich", "poor", "spare"):
        await client.open(account, floor=None)
    await paid(client, 10, source="poor", destination="rich")
    await held(client, MAX, source="rich", destination="spare")
    refused = await hold(client, 1, source="rich", destination="poor")
    assert (refused.code, refused.json["pointer"]) == ("balance_overflow", "/source")
    await paid(client, 1, source="rich", destination="poor")
    await held(client, MAX, source="spare", destination="poor")
    refused = await hold(client, 1, source="spare", destination="poor")
    assert refused.code == "balance_overflow"
    assert await figures(client, "poor") == (-9, MAX, 0, -9)


async def test_a_hold_checks_its_conditions(funded: Client) -> None:
    """A hold's conditions are checked like those of a transfer."""
    refused = await hold(funded, 1, conditions={"source_version": 1})
    assert (refused.code, refused.json["pointer"]) == ("condition_failed", "/conditions/source_version")
    assert (await hold(funded, 1, conditions={"source_version": 2, "destination_version": 1})).status == 201


@pytest.mark.parametrize(
    ("kind", "fields", "pointer"),
    [
        pytest.param("capture", {"amount": 0}, "/amount", id="no amount"),
        pytest.param("capture", {"amount": -1}, "/amount", id="a negative amount"),
        pytest.param("capture", {"amount": 2**63}, "/amount", id="an amount beyond 64 bits"),
        pytest.param("capture", {"amount": 1.0}, "/amount", id="a float"),
        pytest.param("capture", {"amount": True}, "/amount", id="a boolean"),
        pytest.param("capture", {"amount": "1"}, "/amount", id="a text"),
        pytest.param("capture", {"release_rest": None}, "/release_rest", id="null for a boolean"),
        pytest.param("capture", {"release_rest": 1}, "/release_rest", id="a number for a boolean"),
        pytest.param("capture", {"currency": "EUR"}, "/currency", id="an unknown field of a capture"),
        pytest.param("void", {"amount": 1}, "/amount", id="a void has no amount"),
        pytest.param("void", {"amount": None}, "/amount", id="a void has no amount, not even none"),
        pytest.param("void", {"release_rest": True}, "/release_rest", id="a void releases all"),
        pytest.param("reversal", {"amount": 0}, "/amount", id="no amount to reverse"),
        pytest.param("reversal", {"release_rest": True}, "/release_rest", id="a reversal has nothing to release"),
    ],
)
async def test_a_wrong_shape_is_pointed_at(funded: Client, kind: str, fields: dict[str, object], pointer: str) -> None:
    """A wrong member is a 400 that points to it and binds no key, alone and in bulk, whatever the parent is."""
    for parent in (await held(funded, 30), NO_ID):
        single = await follow(funded, kind, parent, "key", **fields)
        [item] = await bulk(funded, [{"key": "key", "kind": kind, "parent": parent, **fields}])
        assert (single.status, single.code, item["status"]) == (400, "invalid_request", 400)
        assert single.json["errors"][0]["pointer"] == pointer
        assert item["problem"]["errors"][0]["pointer"] == f"/transfers/0{pointer}"
    assert (await bound(funded, "key")).status == 404


@pytest.mark.parametrize(
    ("item", "pointer"),
    [
        pytest.param({"kind": "capture"}, "", id="no parent"),
        pytest.param({"kind": "capture", "parent": NO_ID, "parent_key": "k"}, "", id="two parents"),
        pytest.param({"kind": "capture", "parent": None, "parent_key": None}, "", id="two nulls"),
        pytest.param({"kind": "capture", "parent": "not-an-id"}, "/parent", id="a parent that is no id"),
        pytest.param({"kind": "capture", "parent": "{" + NO_ID + "}"}, "/parent", id="an id in braces"),
        pytest.param({"kind": "capture", "parent": 7}, "/parent", id="a parent that is no text"),
        pytest.param({"kind": "capture", "parent_key": "not a key"}, "/parent_key", id="a key that is none"),
        pytest.param({"kind": "capture", "parent_key": ""}, "/parent_key", id="an empty key"),
        pytest.param({"kind": "expiry", "parent": NO_ID}, "/kind", id="nobody asks for an expiry"),
        pytest.param({"kind": "refund", "parent": NO_ID}, "/kind", id="an unknown kind"),
        pytest.param({"kind": None, "parent": NO_ID}, "/kind", id="no kind"),
        pytest.param({"parent": NO_ID}, "", id="a parent without a kind"),
        pytest.param({"kind": "void", "parent": NO_ID, "source": "alice"}, "/source", id="a side beside the parent"),
    ],
)
async def test_an_item_that_names_no_parent_well_is_wrong(
    funded: Client, item: dict[str, object], pointer: str
) -> None:
    """An item that names its parent wrongly is a 400 with its position, binds no key, and fails an atomic set."""
    sound = {"key": "sound", **order()}
    for atomic in (False, True):
        wrong, other = await bulk(funded, [{"key": "key", **item}, sound], atomic=atomic)
        assert (wrong["status"], wrong["problem"]["code"]) == (400, "invalid_request")
        assert wrong["problem"]["errors"][0]["pointer"].startswith(f"/transfers/0{pointer}")
        assert other["status"] == (409 if atomic else 201)
        sound["key"] = "sound-too"
    assert [(await bound(funded, key)).status for key in ("key", "sound-too")] == [404, 404]


async def test_the_way_to_a_parent_that_is_no_id_leads_nowhere(funded: Client) -> None:
    """A malformed transfer id in the path is a 404 that binds no key; a well-formed unknown id binds the key."""
    for kind in ("capture", "void", "reversal"):
        for name in ("not-an-id", "{" + NO_ID + "}", NO_ID.replace("-", ""), "x" * 65):
            answer = await follow(funded, kind, name, "key")
            assert (answer.status, answer.code, answer.json["outcome"]) == (404, "transfer_not_found", "not_applied")
        assert (await bound(funded, "key")).status == 404
        answer = await follow(funded, kind, NO_ID, f"key-{kind}")
        assert (answer.status, answer.code, answer.json["pointer"]) == (404, "transfer_not_found", "/parent")
        assert (answer.json["outcome"], answer.json["retry"]) == ("refused", "new_key")
        row = (await bound(funded, f"key-{kind}")).json
        assert (row["kind"], row["state"], row["problem"]) == (kind, "refused", answer.json)
        assert {row[member] for member in ("source", "destination", "currency", "source_balance")} == {None}


@pytest.mark.parametrize("kind", ["capture", "void", "reversal"])
async def test_what_follows_needs_a_key(funded: Client, kind: str) -> None:
    """Without a valid idempotency key, nothing is done."""
    parent = await (paid if kind == "reversal" else held)(funded, 30)
    action = {"reversal": "reverse"}.get(kind, kind)
    for headers, code in (({}, "idempotency_key_missing"), ({"Idempotency-Key": "a b"}, "idempotency_key_invalid")):
        answer = await funded.send("POST", f"/v1/transfers/{parent}/{action}", {}, headers=headers)
        assert (answer.status, answer.code, answer.json["outcome"]) == (400, code, "not_applied")
    before = await figures(funded, "alice")
    await followed(funded, kind, parent)
    assert await figures(funded, "alice") != before


async def test_a_body_that_says_nothing_may_be_left_out(funded: Client) -> None:
    """No body, an empty object, and explicit defaults are the same request."""
    for kind in ("capture", "void", "reversal"):
        parent = await (paid if kind == "reversal" else held)(funded, 10)
        action = {"reversal": "reverse"}.get(kind, kind)
        path, headers = f"/v1/transfers/{parent}/{action}", {"Idempotency-Key": f"key-{kind}"}
        # Without a body, the test's HTTP library sends `Content-Type: application/octet-stream`.
        first = await funded.send("POST", path, headers=headers)
        assert first.status == 201, first
        assert (first.json["amount"], first.replayed) == (10, False)
        again = await funded.send("POST", path, raw=b"", headers=headers)
        assert (again.status, again.body, again.replayed) == (201, first.body, True)
        defaults = {"capture": b'{ "release_rest":true, "amount": null}', "reversal": b'{"amount":null}'}
        for raw in (b"{}", b" {\n}", defaults.get(kind, b"{}")):
            again = await raw_follow(funded, kind, parent, raw, f"key-{kind}")
            assert (again.status, again.body, again.replayed) == (201, first.body, True)


async def test_another_ledgers_transfers_do_not_exist(funded: Client, service: Service, ledger: str) -> None:
    """Ids and keys of another ledger's transfers are not found."""
    other = await service.client(f"{ledger}-other")
    await other.fund("alice", 100)
    await other.open("bob")
    parent = await held(other, 30, "elsewhere")
    refused = await follow(funded, "capture", parent)
    assert (refused.status, refused.code) == (404, "transfer_not_found")
    items = [{"key": "k", "kind": "void", "parent_key": "elsewhere"}]
    assert codes(await bulk(funded, items)) == ["transfer_not_found"]
    assert await progress(other, parent) == (("open", 0, 30), 0)


async def test_a_reader_may_not_capture(funded: Client, service: Service, ledger: str) -> None:
    """Captures, voids and reversals need the role write."""
    parent = await held(funded, 30)
    reader = await service.client(ledger, "read")
    for kind in ("capture", "void", "reversal"):
        assert (await follow(reader, kind, parent)).code == "forbidden"
    assert await progress(funded, parent) == (("open", 0, 30), 0)


async def test_a_hold_is_another_request_than_a_transfer(funded: Client) -> None:
    """A hold and a transfer with the same accounts and amount are different requests."""
    await post(funded, order(), "moved")
    reused = await post(funded, order(hold=True), "moved")
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")
    assert "hold" in reused.json["fields"]


async def test_lists_hold_every_kind(funded: Client) -> None:
    """The list of transfers also has holds, captures, voids and reversals, newest first."""
    parent = await held(funded, 10)
    await followed(funded, "capture", parent, amount=5, release_rest=False)
    await followed(funded, "void", parent)
    await followed(funded, "reversal", await paid(funded, 5))
    rows = (await funded.get("/v1/transfers?account=alice")).json["data"]
    assert [row["kind"] for row in rows] == ["reversal", "transfer", "void", "capture", "hold", "transfer"]
    assert [row["parent"] for row in rows[2:4]] == [parent, parent]
