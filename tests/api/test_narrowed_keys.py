"""Keys narrowed to some accounts: what each route does for them, and that other accounts stay hidden."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.http.route import Route
from server.http.routes import ROUTES
from server.ledger.narrowed import ParentSides
from tests.api.narrowed import CASES, PREFIXES, SIDES, Part, ask, make_part, narrowed, outcome
from tests.api.probes import GUARDED, NOBODY, route_name
from tests.api.steps import blocked, bulk, codes, lock_held, order, pages
from tests.support.client import Client, new_key
from tests.support.events import pulled, relaying, streaming
from tests.support.service import Service, in_process
from tests.support.waiting import WAIT_SECONDS, until

_ACCOUNT = ("200", "404 account_not_found", "404 account_not_found")
_POST = ("201", "404 account_not_found", "404 account_not_found")
_CHILD = ("201", "404 account_not_found", "404 transfer_not_found")
_OPEN = ("201", "403 forbidden", "403 forbidden")
_KEY = ("200", "404 api_key_not_found", "404 api_key_not_found")
_WHOLE = ("403 forbidden",) * 3
# Lists and sums contain only the key's accounts.
_LIST = ("200", "200", "200")
# The answers to a narrowed key if both accounts are visible, if one is hidden, and if both are. A route without a row
# fails.
OUTCOMES = {
    "POST /v1/accounts": _OPEN,
    "GET /v1/accounts": _LIST,
    "POST /v1/accounts/bulk": _OPEN,
    "GET /v1/accounts/{id}": _ACCOUNT,
    "PATCH /v1/accounts/{id}": _ACCOUNT,
    "GET /v1/accounts/{id}/entries": _ACCOUNT,
    "GET /v1/accounts/{id}/balance": _ACCOUNT,
    "GET /v1/accounts/{id}/statement": _ACCOUNT,
    "GET /v1/balances": _LIST,
    "POST /v1/transfers": _POST,
    "GET /v1/transfers": _LIST,
    "POST /v1/transfers/bulk": _POST,
    "POST /v1/transfers/preview": _POST,
    "GET /v1/transfers/{id}": ("200", "200", "404 transfer_not_found"),
    "POST /v1/transfers/{id}/capture": _CHILD,
    "POST /v1/transfers/{id}/void": _CHILD,
    "POST /v1/transfers/{id}/reverse": _CHILD,
    "GET /v1/idempotency-keys/{id}": ("200", "200", "404 idempotency_key_not_found"),
    "GET /v1/events": _LIST,
    "GET /v1/events/stream": _LIST,
    "GET /v1/limits": _LIST,
    "GET /v1/ledger": _WHOLE,
    "GET /v1/integrity": _WHOLE,
    "POST /v1/api-keys": ("201", "403 forbidden", "403 forbidden"),
    "GET /v1/api-keys": _LIST,
    "GET /v1/api-keys/{id}": _KEY,
    "PATCH /v1/api-keys/{id}": _KEY,
    "DELETE /v1/api-keys/{id}": _KEY,
    "POST /v1/api-keys/{id}/rotate": _KEY,
    **{route_name(route): _WHOLE for route in ROUTES if route.path.startswith("/v1/webhook-endpoints")},
}


NARROWED = [route for route in GUARDED if route.narrowed]


@pytest.fixture
async def part(service: Service, ledger: str) -> Part:
    """A ledger of which a key sees a part."""
    return await make_part(service, ledger)


@pytest.mark.parametrize("route", GUARDED, ids=route_name)
async def test_every_route_has_its_outcome(part: Part, route: Route) -> None:
    """Each route answers a narrowed key as its row says, and a key of the whole ledger as usual."""
    found = [outcome(await ask(part.part, route, case, part)) for case in CASES]
    assert tuple(found) == OUTCOMES[route_name(route)]
    if route.narrowed:
        whole = [outcome(await ask(part.whole, route, case, part)) for case in CASES]
        assert {status[:3] for status in whole} <= {"200", "201", "409"}, whole


def test_the_reference_has_every_route() -> None:
    """docs/reference/keys.md says for every route what a narrowed key may do."""
    text = (Path(__file__).parents[2] / "docs/reference/keys.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`((?:GET|POST|PATCH|DELETE) /v1/[^`?]*)`", text))
    assert told >= {route_name(route) for route in GUARDED if not route.path.startswith("/v1/webhook-endpoints")}


@pytest.mark.parametrize("route", [route for route in NARROWED if "{id}" in route.path], ids=route_name)
async def test_what_is_hidden_is_as_if_it_were_not_there(part: Part, route: Route) -> None:
    """A hidden resource is answered exactly like a missing one: status, headers and body."""
    hidden = await ask(part.part, route, "outside", part)
    nothing = "00000000-0000-7000-8000-000000000000"
    absent = part._replace(
        moved={"outside": {"id": nothing}},
        held={"outside": {"id": nothing}},
        api_keys={"outside": "0" * 16},
    )
    answer = await ask(part.part, route, "outside", absent, account="bank:nobody", key="nothing")
    assert comparable(hidden) == comparable(answer)


def comparable(answer: Any) -> tuple[int, dict[str, str], bytes]:
    """Return an answer without its request id, date and rate limit."""
    varying = ("date", "x-request-id", "ratelimit")
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in varying}
    return answer.status, headers, re.sub(rb'"request_id":"[^"]*"', b"", answer.body)


async def test_lists_have_what_is_within(part: Part) -> None:
    """Lists have only the accounts, sums and transfers within the prefixes, whatever the query."""
    ids = [account["id"] for page in await pages(part.part, "/v1/accounts", 1) for account in page]
    assert ids == ["shop:a", "till:b"]
    for prefix, found in (("s", ["shop:a"]), ("shop:a", ["shop:a"]), ("bank:", []), ("bank:x", []), ("shop:ab", [])):
        answer = await part.part.get(f"/v1/accounts?prefix={prefix}")
        assert [account["id"] for account in answer.json["data"]] == found
    [total] = (await part.part.get("/v1/balances")).json["data"]
    assert (total["accounts"], total["net"]) == (2, -5)
    assert (await part.part.get("/v1/balances?prefix=bank:")).json["data"] == []
    [total] = (await part.part.get("/v1/balances?prefix=till")).json["data"]
    assert (total["accounts"], total["net"]) == (1, 5)
    listed = [found["id"] for page in await pages(part.part, "/v1/transfers", 1) for found in page]
    seen = {found[case]["id"] for found in (part.moved, part.held) for case in ("inside", "mixed")}
    assert set(listed) == seen
    assert len(listed) == len(seen)
    for query in ("reference=order-1", "account=shop:a", "account=shop:a&reference=order-1"):
        assert {found["id"] for found in (await part.part.get(f"/v1/transfers?{query}")).json["data"]} == seen
    for query in ("account=bank:x", "account=bank:y&reference=order-1", "account=nobody"):
        answer = await part.part.get(f"/v1/transfers?{query}")
        assert answer.json == {"data": [], "next_cursor": None}


async def test_the_hidden_side_is_null(part: Part) -> None:
    """If one side of a transfer is hidden, its account, balance and version are null; the rest is as posted."""
    for case, side in (("mixed", "destination"),):
        whole = (await part.whole.get(f"/v1/transfers/{part.held[case]['id']}")).json
        expected = {**whole, side: None, f"{side}_balance": None, f"{side}_version": None}
        for path in (f"transfers/{whole['id']}", f"idempotency-keys/{case}-True"):
            assert (await part.part.get(f"/v1/{path}")).json == expected
    entries = (await part.part.get("/v1/accounts/shop:a/entries")).json["data"]
    assert [entry["counterparty"] for entry in entries] == [None, "till:b"]
    statement = (await part.part.get("/v1/accounts/shop:a/statement")).json["entries"]
    assert [entry["counterparty"] for entry in statement] == ["till:b", None]
    csv = await part.part.get("/v1/accounts/shop:a/statement", Accept="text/csv")
    assert [line.split(",")[6] for line in csv.body.decode().splitlines()] == ["counterparty", "", "till:b", "", ""]


async def test_a_refusal_binds_no_key(part: Part) -> None:
    """A narrowed key's refused request leaves the idempotency key free: another key can post under it."""
    key = new_key()
    refused, again = [await part.part.transfer("shop:a", "bank:x", 1, key) for _ in range(2)]
    assert (refused.status, refused.code, refused.json["pointer"]) == (404, "account_not_found", "/destination")
    assert not refused.replayed
    assert (refused.json["outcome"], refused.json["retry"]) == ("not_applied", "never")
    assert comparable(again) == comparable(refused)
    assert (await part.whole.transfer("shop:a", "bank:x", 1, key)).status == 201
    again = await part.part.transfer("shop:a", "bank:x", 1, key)
    assert comparable(again) == comparable(refused)


async def test_a_replay_of_what_is_hidden(part: Part) -> None:
    """A request that another key posted is replayed only to a key that sees both accounts."""
    for case in CASES:
        body, key = order(*SIDES[case], 5, reference="order-2"), new_key()
        headers = {"Idempotency-Key": key}
        first = await part.whole.send("POST", "/v1/transfers", body, headers=headers)
        again = await part.part.send("POST", "/v1/transfers", body, headers=headers)
        if case == "inside":
            assert (again.status, again.replayed, again.body) == (201, True, first.body)
        else:
            assert (again.status, again.code) == (404, "account_not_found")
        hold = part.held[case]["id"]
        path, headers = f"/v1/transfers/{hold}/capture", {"Idempotency-Key": new_key()}
        first = await part.whole.send("POST", path, {"amount": 1, "release_rest": False}, headers=headers)
        again = await part.part.send("POST", path, {"amount": 1, "release_rest": False}, headers=headers)
        assert (again.body == first.body) == (case == "inside")


async def test_a_key_that_is_bound_to_what_is_hidden(part: Part) -> None:
    """Another request under the key is a 422; it names the transfer and fields only if both accounts are visible."""
    for case in CASES:
        answer = await part.part.transfer("shop:a", "till:b", 77, f"{case}-False")
        assert (answer.status, answer.code) == (422, "idempotency_key_reused")
        assert ("transfer_id" in answer.json, "fields" in answer.json) == (case == "inside",) * 2
        [result] = await bulk(part.part, [{"key": f"{case}-False", **order("shop:a", "till:b", 77)}])
        assert ("transfer_id" in result["problem"]) == (case == "inside")


async def test_bulks_of_several_kinds(part: Part) -> None:
    """Refused items do not affect the others; in an atomic set nothing is posted and no key is bound."""
    items: list[dict[str, object]] = [
        {"key": new_key(), **order("shop:a", "till:b", 1)},
        {"key": new_key(), **order("shop:a", "bank:x", 1)},
        {"key": new_key(), "kind": "void", "parent": part.held["outside"]["id"]},
        {"key": new_key(), "kind": "capture", "parent": part.held["mixed"]["id"], "amount": 1},
        {"key": new_key(), "kind": "capture", "parent": part.held["inside"]["id"], "amount": 1},
        {"key": new_key(), "kind": "void", "parent_key": "outside-True"},
        {"key": new_key(), "kind": "reversal", "parent_key": "mixed-False"},
        {"key": new_key(), "kind": "reversal", "parent_key": "inside-False", "amount": 1},
    ]
    expected: list[str | int] = [201, "account_not_found", "transfer_not_found", "account_not_found", 201]
    expected += ["transfer_not_found", "account_not_found", 201]
    found = await bulk(part.part, items, atomic=True)
    linked: list[str | int] = [code if isinstance(code, str) else "linked_failed" for code in expected]
    assert codes(found) == linked
    assert {result["problem"]["outcome"] for result in found} == {"not_applied"}
    for item in items:
        assert (await part.whole.get(f"/v1/idempotency-keys/{item['key']}")).status == 404
    preview = await part.part.post("/v1/transfers/preview", {"transfers": items})
    assert codes(preview.json["results"]) == expected
    found = await bulk(part.part, items)
    assert codes(found) == expected
    assert found[6]["problem"]["pointer"] == "/source"
    again = await bulk(part.part, items)
    assert [result["replayed"] for result in again] == [isinstance(code, int) for code in expected]
    for item, code in zip(items, expected, strict=True):
        bound = (await part.whole.get(f"/v1/idempotency-keys/{item['key']}")).status
        assert bound == (200 if isinstance(code, int) else 404)


@pytest.mark.parametrize("atomic", [False, True])
async def test_parents_that_are_made_in_the_same_bulk(part: Part, atomic: bool) -> None:
    """A parent key refers to the earlier item of the bulk, and not to a hidden transfer that the key was bound to."""
    first, second = new_key(), new_key()
    items: list[dict[str, object]] = [
        {"key": first, **order("shop:a", "till:b", 5, hold=True)},
        {"key": second, "kind": "capture", "parent_key": first, "amount": 2, "release_rest": False},
        {"key": new_key(), "kind": "reversal", "parent_key": second, "amount": 1},
        {"key": new_key(), "kind": "void", "parent_key": first},
    ]
    assert codes(await bulk(part.part, items, atomic=atomic)) == [201] * 4
    taken: list[dict[str, object]] = [
        {"key": "outside-True", **order("shop:a", "till:b", 5, hold=True)},
        {"key": new_key(), "kind": "void", "parent_key": "outside-True"},
    ]
    found = codes(await bulk(part.part, taken, atomic=atomic))
    assert found == (
        ["linked_failed", "transfer_not_found"] if atomic else ["idempotency_key_reused", "transfer_not_found"]
    )
    assert (await part.whole.get(f"/v1/transfers/{part.held['outside']['id']}")).json["hold"]["state"] == "open"


async def test_a_bulk_that_is_sent_again(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replayed bulk looks up all its parents at once, so a client that was cut off gets its answer."""
    items: list[dict[str, object]] = []
    for key in (new_key() for _ in range(20)):
        items.append({"key": key, **order("shop:a", "till:b", 1, hold=True)})
        items.append({"key": new_key(), "kind": "void", "parent_key": key})
    first = await bulk(part.part, items)
    assert codes(first) == [201] * len(items)
    looked = 0
    original = ParentSides.find

    async def find(self: ParentSides, *arguments: Any) -> Any:
        nonlocal looked
        looked += 1
        return await original(self, *arguments)

    monkeypatch.setattr(ParentSides, "find", find)
    again = await bulk(part.part, items)
    assert [result["transfer"] for result in again] == [result["transfer"] for result in first]
    assert looked == 1


async def test_a_parent_s_key_that_is_bound_meanwhile(part: Part, service: Service) -> None:
    """If another worker binds the first item's key to a hidden hold meanwhile, the second item does not void it."""
    key = new_key()
    items: list[dict[str, object]] = [
        {"key": key, **order("shop:a", "till:b", 5, hold=True)},
        {"key": new_key(), "kind": "void", "parent_key": key},
    ]
    async with in_process(service.database_url) as elsewhere:
        whole = Client(elsewhere.session, elsewhere.url, part.whole.token)
        async with lock_held(service, "shop:a") as holder:
            asking = asyncio.create_task(bulk(part.part, items))
            await until(lambda: _is_blocking(holder))
            hidden = await whole.transfer("bank:x", "bank:y", 5, key, hold=True)
        assert codes(await asking) == ["idempotency_key_reused", "transfer_not_found"]
    assert (await part.whole.get(f"/v1/transfers/{hidden.json['id']}")).json["hold"]["state"] == "open"


async def _is_blocking(holder: "asyncpg.Connection[asyncpg.Record]") -> bool:
    return bool(await blocked(holder))


async def test_a_refused_transfer_is_seen_by_who_sees_both_sides(part: Part) -> None:
    """A refused transfer names both accounts, so a key that sees only one of them cannot read it."""
    for case in CASES:
        key = new_key()
        refused = await part.whole.transfer(*SIDES[case], 1, key, conditions={"source_version": 0})
        assert refused.code == "condition_failed"
        seen = await part.part.get(f"/v1/idempotency-keys/{key}")
        assert seen.status == (200 if case == "inside" else 404)


@pytest.fixture
async def relay(service: Service) -> AsyncIterator[None]:
    """Run the relay of events."""
    async with relaying(service.database_url):
        yield


@pytest.mark.usefixtures("relay")
async def test_events_of_what_is_within(part: Part) -> None:
    """Pages and streams skip hidden events, keep the ledger's positions, and blank the hidden side."""
    for case in CASES:
        await part.whole.transfer(*SIDES[case], 1, conditions={"source_version": 0})
    await part.whole.open("till:last")

    async def told() -> bool:
        return any(event["subject"] == "till:last" for event in await pulled(part.whole))

    await until(told)
    whole = await pulled(part.whole)
    mine = await pulled(part.part)
    assert [event["position"] for event in whole] == list(range(1, len(whole) + 1))
    seen = [event for event in map(as_seen, whole) if event is not None]
    assert mine == seen
    assert 0 < len(mine) < len(whole)
    async with streaming(part.part) as stream:
        assert [sent.data for sent in await stream.take(len(seen))] == seen
    for query in ("&account=bank:x", "&account=nobody"):
        assert await pulled(part.part, query) == []
    of_shop = await pulled(part.part, "&account=shop:a")
    assert of_shop == [event for event in seen if "shop:a" in names(event)]
    assert await pulled(part.part, "&type=transfer.refused") == [event for event in seen if "refused" in event["type"]]
    page = await part.part.get("/v1/events?account=bank:x")
    assert page.json["next_after"] == len(whole)


def names(event: Any) -> list[str]:
    """Return the accounts that an event names."""
    return [event["subject"], *(event["data"].get(side) for side in ("source", "destination"))]


def as_seen(event: Any) -> Any:
    """Return an event as the narrowed key sees it, or None if it is hidden."""

    def has(account: str | None) -> bool:
        return account is not None and account.startswith(tuple(PREFIXES))

    data = event["data"]
    if "source" not in data:
        return event if has(data["id"]) else None
    hidden = [side for side in ("source", "destination") if not has(data[side])]
    if len(hidden) == 2 or (hidden and "refused" in event["type"]):
        return None
    return {
        **event,
        "data": {**data, **{f"{side}{end}": None for side in hidden for end in ("", "_balance", "_version")}},
    }


@pytest.mark.usefixtures("relay")
async def test_waiting_for_events_of_what_is_within(part: Part) -> None:
    """A waiting reader is woken by a visible event, and not by a hidden one."""
    after = (await part.part.get("/v1/events?after=0&limit=100&wait=1")).json["next_after"]
    waiting = asyncio.create_task(part.part.get(f"/v1/events?after={after}&wait=20&type=account.updated"))
    for account in ("bank:x", "shop:a"):
        assert (await part.whole.send("PATCH", f"/v1/accounts/{account}", {"metadata": {"n": "1"}})).status == 200
    answer = await waiting
    assert [event["subject"] for event in answer.json["data"]] == ["shop:a"]


async def test_keys_within_keys(part: Part) -> None:
    """A narrowed key creates, changes and sees only keys whose view lies within its own."""
    mine = [key["id"] for key in (await part.part.get("/v1/api-keys")).json["data"]]
    assert part.api_keys["inside"] in mine
    assert not {part.api_keys["mixed"], part.api_keys["outside"]} & set(mine)
    assert len(mine) == 2
    path = f"/v1/api-keys/{part.api_keys['inside']}"
    for accounts, status in ((None, 403), (["bank:"], 403), (["shop:", "s"], 403), (["till:b", "shop:"], 200)):
        assert (await part.part.send("PATCH", path, {"accounts": accounts})).status == status
    assert (await part.part.send("PATCH", path, {"rate": "5/s"})).status == 200
    assert (await part.whole.send("PATCH", path, {"accounts": None})).status == 200
    for method, end in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
        answer = await part.part.send(method, path + end, None if method == "GET" else {})
        assert (answer.status, answer.code) == (404, "api_key_not_found")


async def test_a_key_that_was_known_to_see_more(part: Part) -> None:
    """Writes of keys and endpoints are checked against the stored key, even if a worker read the key just before."""
    webhook = {"url": NOBODY}
    for change, status, code in (
        (("PATCH", {"accounts": ["shop:"]}), 403, "forbidden"),
        (("DELETE", {}), 401, "unauthorized"),
    ):
        key = await narrowed(part.whole, None)
        assert key.token is not None
        path = f"/v1/api-keys/{key.token.split('_')[2]}"
        assert (await key.get("/v1/limits")).status == 200
        assert (await part.whole.send(change[0], path, change[1])).status == 200
        for method, asked, body in (
            ("PATCH", path, {"accounts": None}),
            ("POST", "/v1/api-keys", {"role": "admin"}),
            ("POST", "/v1/webhook-endpoints", webhook),
        ):
            answer = await key.send(method, asked, body)
            assert (answer.status, answer.code) == (status, code)


async def test_a_change_of_accounts_counts_for_what_is_cached(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was narrowed gets no cached account and no replay that it may no longer see."""
    monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", 0.0)
    key = await narrowed(part.whole, None)
    body, headers = order("shop:a", "bank:x", 3), {"Idempotency-Key": new_key()}
    assert (await key.get("/v1/accounts/bank:x")).status == 200
    assert (await key.send("POST", "/v1/transfers", body, headers=headers)).status == 201
    assert key.token is not None
    path = f"/v1/api-keys/{key.token.split('_')[2]}"
    assert (await part.whole.send("PATCH", path, {"accounts": PREFIXES})).status == 200
    assert (await key.get("/v1/accounts/bank:x")).status == 404
    assert (await key.send("POST", "/v1/transfers", body, headers=headers)).status == 404
    assert (await part.whole.send("PATCH", path, {"accounts": None})).status == 200
    assert (await key.get("/v1/accounts/bank:x")).status == 200
    replay = await key.send("POST", "/v1/transfers", body, headers=headers)
    assert (replay.status, replay.replayed) == (201, True)


@pytest.mark.usefixtures("relay")
async def test_a_key_that_is_narrowed_while_it_waits(
    part: Part, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that waits for events gets none that its key may no longer see: a stream ends, and a page is empty."""
    monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", 0.0)
    key = await narrowed(part.whole, None)
    assert key.token is not None
    query = "?type=account.created&account=bank:late"
    async with streaming(key, query) as stream:
        waiting = asyncio.create_task(key.get(f"/v1/events{query}&wait=20"))
        assert service.app is not None
        counts = service.app.waiting
        await until(lambda: counts.count == 1)
        path = f"/v1/api-keys/{key.token.split('_')[2]}"
        assert (await part.whole.send("PATCH", path, {"accounts": ["shop:"]})).status == 200
        assert (await part.whole.open("bank:late")).status == 201
        assert (await waiting).json["data"] == []
        assert await asyncio.wait_for(stream.rest(), WAIT_SECONDS) == []
