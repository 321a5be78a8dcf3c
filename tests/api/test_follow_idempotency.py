"""The idempotency table of the contract for holds, captures, voids and reversals."""

from typing import Any

import orjson
import pytest

from tests.api.holding import ACTIONS, NO_ID, figures, follow, followed, held, hold, paid, raw_follow
from tests.api.steps import bound, bulk, codes, order, post
from tests.support.client import Answer, Client
from tests.support.clock import BooksClock
from tests.support.service import Service, in_process

KINDS = ("hold", "capture", "void", "reversal")


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


async def _parent(client: Client, kind: str) -> str:
    """Return the parent that a request of a kind follows."""
    return await paid(client, 10) if kind == "reversal" else await held(client, 10) if kind in ACTIONS else ""


async def _ask(client: Client, kind: str, parent: str, key: str, **fields: object) -> Answer:
    if kind == "hold":
        return await hold(client, 10, key, **fields)
    return await follow(client, kind, parent, key, **fields)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_retry_is_answered_as_the_first(funded: Client, kind: str) -> None:
    """Redis and PostgreSQL replay the first answer, alone and in a bulk, after the parent and accounts have changed."""
    parent = await _parent(funded, kind)
    first = await _ask(funded, kind, parent, "once")
    assert (first.status, first.replayed) == (201, False)
    await funded.transfer("world", "alice", 50)
    await funded.send("PATCH", "/v1/accounts/bob", {"closed": True})
    before = [await figures(funded, account) for account in ("alice", "bob")]
    item = {"key": "once", **order(hold=True)} if kind == "hold" else {"key": "once", "kind": kind, "parent": parent}
    for _ in range(3):
        again = await _ask(funded, kind, parent, "once")
        assert (again.status, again.replayed, again.body) == (201, True, first.body)
        for atomic in (False, True):
            [result] = await bulk(funded, [item], atomic=atomic)
            assert (result["status"], result["replayed"]) == (201, True)
            assert orjson.dumps(result["transfer"]) == first.body
    assert [await figures(funded, account) for account in ("alice", "bob")] == before
    row = (await bound(funded, "once")).json
    assert {member: row[member] for member in first.json} == first.json


@pytest.mark.parametrize("kind", KINDS)
async def test_postgres_alone_gives_the_same_answer(database_url: str, redis_url: str, kind: str) -> None:
    """A service without Redis renders the first answer, posted or refused, from its row."""
    async with in_process(database_url, redis_url) as first, in_process(database_url) as second:
        client = await first.client("replays")
        await client.fund("alice", 100)
        await client.open("bob")
        other = Client(second.session, second.url, client.token)
        parent = await _parent(client, kind)
        posted = await _ask(client, kind, parent, "posted")
        refused = (
            await hold(client, 1_000, "refused") if kind == "hold" else await follow(client, kind, NO_ID, "refused")
        )
        assert (posted.status, refused.status) == (201, 409 if kind == "hold" else 404)
        again = await _ask(other, kind, parent, "posted")
        assert (again.status, again.replayed, again.body) == (201, True, posted.body)
        again = await hold(other, 1_000, "refused") if kind == "hold" else await follow(other, kind, NO_ID, "refused")
        assert (again.status, again.replayed, again.body) == (refused.status, True, refused.body)


@pytest.mark.parametrize(
    ("first", "same", "other", "fields"),
    [
        pytest.param({}, {"amount": None}, {"amount": 10}, ["amount"], id="all that remains is not its amount"),
        pytest.param({"amount": 10}, {"amount": 10}, {}, ["amount"], id="an amount is not all that remains"),
        pytest.param({"amount": 4}, {"release_rest": True, "amount": 4}, {"amount": 5}, ["amount"], id="the amount"),
        pytest.param(
            {"amount": 4}, {"amount": 4}, {"amount": 4, "release_rest": False}, ["release_rest"], id="what is released"
        ),
    ],
)
async def test_what_makes_two_captures_the_same(
    funded: Client, first: dict[str, Any], same: dict[str, Any], other: dict[str, Any], fields: list[str]
) -> None:
    """Explicit defaults make no difference; every other difference makes another request, and the answer names it."""
    parent = await held(funded, 10)
    posted = await followed(funded, "capture", parent, "key", **first)
    again = await follow(funded, "capture", parent, "key", **same)
    assert (again.status, again.replayed, again.json) == (201, True, posted)
    reused = await follow(funded, "capture", parent, "key", **other)
    assert (reused.status, reused.code, reused.json["fields"]) == (422, "idempotency_key_reused", fields)
    assert reused.json["transfer_id"] == posted["id"]
    [item] = await bulk(funded, [{"key": "key", "kind": "capture", "parent": parent, **other}])
    assert (item["status"], item["problem"]["fields"]) == (422, fields)


async def test_what_makes_two_reversals_the_same(funded: Client) -> None:
    """A null amount and the equal number are different requests, and so are two parents."""
    parent, other = await paid(funded, 10), await paid(funded, 10)
    await followed(funded, "reversal", parent, "key")
    assert (await follow(funded, "reversal", parent, "key", amount=10)).json["fields"] == ["amount"]
    assert (await follow(funded, "reversal", other, "key")).json["fields"] == ["parent"]
    assert (await follow(funded, "reversal", NO_ID, "key")).json["fields"] == ["parent"]


@pytest.mark.parametrize(
    ("first", "same", "other", "field"),
    [
        pytest.param({}, {"expires_in": 604_800}, {"expires_in": 604_799}, "expires_in", id="the usual life"),
        pytest.param({"expires_in": None}, {}, {"expires_in": 60}, "expires_in", id="null is the usual life"),
        pytest.param({"expires_in": 60}, {"expires_in": 60}, {}, "expires_in", id="a life of its own"),
        pytest.param({}, {"effective_at": None}, {"effective_at": "2020-01-01T00:00:00Z"}, "effective_at", id="a date"),
        pytest.param(
            {"effective_at": "2020-01-01T00:00:00Z"},
            {"effective_at": "2020-01-01T01:00:00.000000+01:00"},
            {"effective_at": "2020-01-01T00:00:01Z"},
            "effective_at",
            id="one date, written in two ways",
        ),
        pytest.param(
            {"effective_at": "2020-01-01T00:00:00.1234567Z"},
            {"effective_at": "2020-01-01T00:00:00.123456Z"},
            {"effective_at": "2020-01-01T00:00:00.123457Z"},
            "effective_at",
            id="digits past the microsecond",
        ),
    ],
)
async def test_what_makes_two_holds_the_same(
    funded: Client, first: dict[str, Any], same: dict[str, Any], other: dict[str, Any], field: str
) -> None:
    """Holds are compared by meaning, not by bytes."""
    posted = await post(funded, order(hold=True, **first), "key")
    assert posted.status == 201, posted
    again = await post(funded, order(hold=True, **same), "key")
    assert (again.status, again.replayed, again.body) == (201, True, posted.body)
    reused = await post(funded, order(hold=True, **other), "key")
    assert (reused.status, reused.json["fields"]) == (422, [field])


async def test_kinds_do_not_share_a_key(funded: Client) -> None:
    """A key bound to one kind is refused for every other, and the answer names the differing members."""
    parents = {kind: await _parent(funded, kind) for kind in KINDS}
    posted = {"transfer": await post(funded, order(), "transfer")}
    for kind in KINDS:
        posted[kind] = await _ask(funded, kind, parents[kind], kind)
    assert {answer.status for answer in posted.values()} == {201}
    asking = {"transfer": order(), "hold": order(hold=True)}
    for bound_to, answer in posted.items():
        for kind in (*asking, *ACTIONS):
            if kind == bound_to:
                continue
            for parent in parents.values() if kind in ACTIONS else ("",):
                again = (
                    await post(funded, asking[kind], bound_to)
                    if kind in asking
                    else await follow(funded, kind, parent or NO_ID, bound_to)
                )
                assert (again.status, again.code) == (422, "idempotency_key_reused"), (bound_to, kind)
                assert again.json["fields"]
                assert again.json["transfer_id"] == answer.json["id"]


async def test_other_bytes_are_the_same_capture(funded: Client) -> None:
    """Spaces, the order of members and escapes do not make another request."""
    parent = await held(funded, 10)
    first = await raw_follow(funded, "capture", parent, b'{"amount":4,"release_rest":false}', "key")
    assert first.status == 201
    for raw in (b' {"release_rest" : false, "amount" : 4}', b'{"\\u0061mount":4,"release_rest":false}'):
        again = await raw_follow(funded, "capture", parent, raw, "key")
        assert (again.status, again.replayed, again.body) == (201, True, first.body)
    upper = await raw_follow(funded, "capture", parent.upper(), b'{"amount":4,"release_rest":false}', "key")
    assert (upper.status, upper.replayed, upper.body) == (201, True, first.body)


async def test_a_refused_capture_stays_refused(funded: Client) -> None:
    """A refusal stays bound to its key for ever, even when a new key would succeed."""
    parent = await held(funded, 10)
    await funded.send("PATCH", "/v1/accounts/bob", {"closed": True})
    first = await follow(funded, "capture", parent, "late")
    assert first.code == "account_closed"
    await funded.send("PATCH", "/v1/accounts/bob", {"closed": False})
    again = await follow(funded, "capture", parent, "late")
    assert (again.status, again.replayed, again.body) == (409, True, first.body)
    kept = (await bound(funded, "late")).json
    assert (kept["kind"], kept["state"], kept["parent"], kept["problem"]) == ("capture", "refused", parent, first.json)
    await followed(funded, "capture", parent, "in-time")


async def test_a_retry_after_the_end_of_its_hold(timed: Client, timed_service: Service, clock: BooksClock) -> None:
    """A hold and its captures are replayed long after the hold has ended."""
    await timed.fund("alice", 100)
    await timed.open("bob")
    first = await hold(timed, 10, "hold", expires_in=60)
    capture = await follow(timed, "capture", first.json["id"], "capture", amount=1, release_rest=False)
    await clock.advance(3_600)
    again = await hold(timed, 10, "hold", expires_in=60)
    assert (again.status, again.replayed, again.body) == (201, True, first.body)
    again = await follow(timed, "capture", first.json["id"], "capture", amount=1, release_rest=False)
    assert (again.status, again.replayed, again.body) == (201, True, capture.body)


async def test_a_key_names_a_parent_or_an_id_does(funded: Client) -> None:
    """Naming the parent in another way makes another request; the first is replayed only as it was sent."""
    parent = await held(funded, 10, "hold")
    item = {"key": "key", "kind": "capture", "parent_key": "hold"}
    [first] = await bulk(funded, [item])
    assert (first["status"], first["transfer"]["parent"]) == (201, parent)
    assert await bulk(funded, [item]) == [{**first, "replayed": True}]
    assert codes(await bulk(funded, [{**item, "parent_key": "other"}])) == ["idempotency_key_reused"]
