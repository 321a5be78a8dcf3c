"""The idempotency table of the contract, row by row, for single transfers."""

from collections.abc import AsyncIterator

import pytest

from server.http.idempotency import fingerprint
from tests.api.steps import bound, order, post, without_request_id
from tests.support.client import Answer, Client
from tests.support.postgres import administer
from tests.support.service import Service, in_process


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param("   ", id="blank"),
        pytest.param("a b", id="a space inside"),
        pytest.param("a\tb", id="a tab inside"),
        pytest.param("käse", id="beyond ASCII"),
        pytest.param("k" * 256, id="one character too long"),
        pytest.param('"abc', id="a quote that is not closed"),
        pytest.param('"', id="a lone quote"),
        pytest.param('""', id="an empty string"),
        pytest.param('"a"b"', id="a bare quote inside a string"),
        pytest.param(r'"a\b"', id="an escape that structured fields do not have"),
        pytest.param('"a b"', id="a space inside a string"),
        pytest.param(f'"{"k" * 256}"', id="a string one character too long"),
        pytest.param('"abc";a=1', id="a string with parameters"),
    ],
)
async def test_a_malformed_key_is_refused(funded: Client, header: str) -> None:
    """A malformed key in the header is a 400 with its own code, and nothing moves."""
    answer = await post(funded, order(), header)
    assert (answer.status, answer.code) == (400, "idempotency_key_invalid")
    assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "never")
    assert await funded.balance("bob") == 0


async def test_a_missing_key_is_refused(funded: Client) -> None:
    """A transfer without a key is a 400 with its own code, and nothing moves."""
    answer = await funded.post("/v1/transfers", order())
    assert (answer.status, answer.code) == (400, "idempotency_key_missing")
    assert await funded.balance("bob") == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("pay-1", '"pay-1"', id="raw and quoted"),
        pytest.param('a"b', r'"a\"b"', id="a quote is escaped"),
        pytest.param(r"a\b", r'"a\\b"', id="a backslash is escaped"),
        pytest.param("k" * 255, f'"{"k" * 255}"', id="the longest key"),
        pytest.param("!", '"!"', id="the shortest key"),
        pytest.param("!#$%&'()*+,-./:;<=>?@[]^_`{|}~", '"!#$%&\'()*+,-./:;<=>?@[]^_`{|}~"', id="all of ASCII's signs"),
    ],
)
async def test_both_forms_name_one_key(funded: Client, one: str, other: str) -> None:
    """The raw and the quoted form of a key are the same key, whichever was used first."""
    first, second = await post(funded, order(), one), await post(funded, order(), other)
    assert (first.status, first.replayed, second.status, second.replayed) == (201, False, 201, True)
    assert first.body == second.body
    assert await funded.balance("bob") == 10


async def test_keys_that_differ_in_case_differ(funded: Client) -> None:
    """Keys are compared character by character."""
    assert not (await post(funded, order(), "Key")).replayed
    assert not (await post(funded, order(), "key")).replayed
    assert await funded.balance("bob") == 20


async def test_a_first_use_is_executed(funded: Client) -> None:
    """A first use moves the money, returns the transfer that was asked for, and is not marked as a replay."""
    answer = await post(funded, order(reference="r", description="d", metadata={"b": "2", "a": "1"}), "first")
    body = answer.json
    assert answer.status == 201
    assert "Idempotent-Replayed" not in answer.headers
    expected = {
        **order(reference="r", description="d", metadata={"a": "1", "b": "2"}),
        "kind": "transfer",
        "state": "posted",
        "parent": None,
        "source_balance": 90,
        "destination_balance": 10,
        "source_version": 3,
        "destination_version": 2,
        "id": body["id"],
        "created_at": body["created_at"],
        "effective_at": body["created_at"],
    }
    assert body == expected
    assert (await funded.account("alice"))["balance"] == 90


async def test_a_replay_is_the_first_answer_for_ever(funded: Client, service: Service) -> None:
    """A replay is the first answer byte for byte, from every worker, whatever happens in the ledger afterwards."""
    first = await post(funded, order(metadata={"z": "ü", "a": ""}), "once")
    await post(funded, order("alice", "bob", 30), "another")
    for account in ("alice", "bob"):
        closing = await funded.send("PATCH", f"/v1/accounts/{account}", {"closed": True, "metadata": {"n": "1"}})
        assert closing.status == 200
    again = [await post(funded, order(metadata={"z": "ü", "a": ""}), "once") for _ in range(2)]
    async with in_process(service.database_url, service.redis_url) as elsewhere:
        there = Client(elsewhere.session, elsewhere.url, funded.token)
        again.append(await post(there, order(metadata={"z": "ü", "a": ""}), "once"))
    for answer in again:
        assert (answer.status, answer.replayed, answer.body) == (201, True, first.body)
        assert answer.headers["Content-Type"] == first.headers["Content-Type"] == "application/json"
    assert await funded.balance("bob") == 40


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        pytest.param({"source": "world"}, ["source"], id="another source"),
        pytest.param({"destination": "carol"}, ["destination"], id="another destination, which does not exist"),
        pytest.param({"amount": 11}, ["amount"], id="another amount"),
        pytest.param({"amount": 2**63 - 1}, ["amount"], id="an amount that the source does not have"),
        pytest.param({"currency": "USD"}, ["currency"], id="another currency"),
        pytest.param({"reference": "r2"}, ["reference"], id="another reference"),
        pytest.param({"reference": None}, ["reference"], id="no reference"),
        pytest.param({"description": ""}, ["description"], id="a description"),
        pytest.param({"metadata": {"k": "w"}}, ["metadata"], id="other metadata"),
        pytest.param({"conditions": {"source_version": 1}}, ["conditions"], id="a condition that does not hold"),
        pytest.param({"amount": 1, "currency": "USD", "source": "x"}, ["source", "amount", "currency"], id="several"),
    ],
)
async def test_a_key_answers_no_other_request(funded: Client, changed: dict[str, object], fields: list[str]) -> None:
    """Another request under a bound key is refused with the names of the fields that differ."""
    original = order(reference="r", metadata={"k": "v"})
    first = await post(funded, original, "taken")
    answer = await post(funded, {**original, **changed}, "taken")
    assert (answer.status, answer.code, answer.replayed) == (422, "idempotency_key_reused", False)
    assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "new_key")
    assert (answer.json["fields"], answer.json["transfer_id"]) == (fields, first.json["id"])
    assert (await post(funded, original, "taken")).body == first.body
    assert await funded.balance("bob") == 10


PLAIN = b'{"source":"alice","destination":"bob","amount":10,"currency":"EUR"}'
FULL = (
    b'{"source":"alice","destination":"bob","amount":10,"currency":"EUR","reference":"\xc3\xbc/1",'
    b'"conditions":{"source_version":2,"source_available_gte":-5},"metadata":{"a":"1","b":"\xc3\xbc"}}'
)
OTHER_BYTES = [
    pytest.param(PLAIN, PLAIN + b"\n", id="a line end behind it"),
    pytest.param(PLAIN, PLAIN.replace(b":", b" : ").replace(b",", b",\n  "), id="other spaces"),
    pytest.param(
        PLAIN, b'{"currency":"EUR","amount":10,"destination":"bob","source":"alice"}', id="another order of members"
    ),
    pytest.param(PLAIN, PLAIN.replace(b"alice", b"\\u0061lice"), id="an escape"),
    *(
        pytest.param(PLAIN, PLAIN[:-1] + b"," + default + b"}", id=f"a default spelled out: {default.decode()}")
        for default in (
            *(b'"metadata":{}', b'"hold":false', b'"expires_in":null', b'"reference":null', b'"description":null'),
            *(b'"conditions":null', b'"conditions":{}', b'"conditions":{"source_version":null}'),
        )
    ),
    pytest.param(FULL, FULL.replace(b'"a":"1","b":"\xc3\xbc"', b'"b":"\\u00fc","a":"1"'), id="metadata otherwise"),
    pytest.param(
        FULL,
        FULL.replace(b'"source_version":2,', b'"destination_version":null,').replace(b"-5", b'-5,"source_version":2'),
        id="conditions otherwise",
    ),
]


@pytest.fixture(params=["out of Redis", "out of PostgreSQL"])
async def remembering(request: pytest.FixtureRequest, service: Service, ledger: str) -> AsyncIterator[Client]:
    """A client whose replays come from Redis or from PostgreSQL; alice has 100 and bob nothing."""
    if request.param == "out of Redis":
        sender = await service.client(ledger)
        await sender.fund("alice", 100)
        await sender.open("bob")
        yield sender
        return
    async with in_process(service.database_url) as without_redis:
        sender = await without_redis.client(ledger)
        await sender.fund("alice", 100)
        await sender.open("bob")
        yield sender


@pytest.mark.parametrize(("one", "other"), OTHER_BYTES)
async def test_other_bytes_of_one_meaning_are_the_same_request(remembering: Client, one: bytes, other: bytes) -> None:
    """Spaces, member order, escapes and defaults do not make another request, alone or in a bulk, in either order."""
    for number, bodies in enumerate(((one, other), (other, one))):
        versions = {"source_version": 2 + number}
        written = [body.replace(b'version":2', b'version":%d' % versions["source_version"]) for body in bodies]
        first = await post(remembering, written[0], f"bytes-{number}")
        assert (first.status, first.replayed) == (201, False), first
        again = await post(remembering, written[1], f"bytes-{number}")
        assert (again.status, again.replayed, again.body) == (201, True, first.body)
        key = b'{"key":"bytes-%d",' % number
        for atomic in (b"false", b"true"):
            raw = b'{"atomic":%b,"transfers":[%b]}' % (atomic, written[1].replace(b"{", key, 1))
            answer = await remembering.send("POST", "/v1/transfers/bulk", raw=raw)
            assert answer.json["results"] == [{"status": 201, "replayed": True, "transfer": first.json}]
    assert await remembering.balance("bob") == 20


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((b'"description":"d"', b'"description":""'), id="an empty description is one"),
        pytest.param((b"{}", b'{"k":""}'), id="an empty value is one"),
        pytest.param((b'"r"', b'"R"'), id="capitals"),
        pytest.param((b'"r"', b'"r "'), id="a space within"),
        pytest.param((b'"d"', b'"\xc3\xbc"'), id="an umlaut"),
        pytest.param((b'"conditions":null', b'"conditions":{"source_available_gte":0}'), id="a condition of zero"),
    ],
)
async def test_what_is_nearly_the_same_is_another_request(remembering: Client, change: tuple[bytes, bytes]) -> None:
    """A request with another meaning is refused by both stores, and the answer names the field."""
    raw = PLAIN[:-1] + b',"reference":"r","description":"d","conditions":null,"metadata":{}}'
    assert (await post(remembering, raw, "near")).status == 201
    answer = await post(remembering, raw.replace(*change), "near")
    assert (answer.status, answer.code, len(answer.json["fields"])) == (422, "idempotency_key_reused", 1)
    assert await remembering.balance("bob") == 10


async def test_other_bytes_of_a_refused_transfer_are_refused_alike(remembering: Client) -> None:
    """A refusal is replayed byte for byte when the same request comes in other bytes."""
    raw = b'{"source":"alice","destination":"nobody","amount":10,"currency":"EUR"}'
    first = await post(remembering, raw, "refused-bytes")
    assert (first.status, first.json["retry"]) == (404, "new_key")
    again = await post(remembering, raw + b"\n", "refused-bytes")
    assert (again.status, again.replayed, again.body) == (404, True, first.body)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        pytest.param(PLAIN[:-1] + b',"amount":10}', "/amount", id="a member repeated"),
        pytest.param(PLAIN[:-1] + b',"description":"\\u0000"}', "/description", id="a NUL"),
        pytest.param(PLAIN[:-1] + b',"fee":0}', "/fee", id="an unknown member"),
    ],
)
async def test_the_shape_comes_before_a_known_key(remembering: Client, body: bytes, pointer: str) -> None:
    """A malformed request is a 400, however similar it is to the one that the key is bound to."""
    assert (await post(remembering, PLAIN, "shape")).status == 201
    answer = await post(remembering, body, "shape")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, pointer)


async def test_other_bytes_are_answered_without_postgres(database_url: str, redis_url: str) -> None:
    """A replay from Redis needs no PostgreSQL, even if the request comes in other bytes."""
    async with in_process(database_url, redis_url) as running:
        client = await running.client("replays")
        await client.fund("alice", 100)
        await client.open("bob")
        first = await post(client, PLAIN, "kept")
        assert running.app is not None
        before = running.app.tallies.replays["redis"]
        again = await post(client, b" " + PLAIN.replace(b":", b": "), "kept")
        assert (again.status, again.replayed, again.body) == (201, True, first.body)
        assert running.app.tallies.replays["redis"] == before + 1


async def test_what_an_earlier_version_stored_is_replayed(database_url: str, redis_url: str) -> None:
    """Rows and replays stored under a fingerprint of a request's bytes are found again, whatever bytes a retry has."""
    async with in_process(database_url, redis_url) as running:
        client = await running.client("earlier")
        await client.fund("alice", 100)
        await client.open("bob")
        with_conditions = PLAIN[:-1] + b',"conditions":{}}'
        first = await post(client, with_conditions, "old")
        await administer(
            database_url,
            "UPDATE tallystick.transfers SET fingerprint = sha256('as it was'), conditions = $1::json"
            " WHERE idempotency_key = 'old'",
            '{"source_version":null,"destination_version":null,"source_available_gte":null}',
        )
        assert running.app is not None
        redis, names = running.app.redis, running.app.gate.keyspace
        (row,) = await administer(database_url, "SELECT id FROM tallystick.ledgers WHERE name = 'earlier'")
        name = names.replay(row["id"], "old")
        earlier = fingerprint("POST", "/v1/transfers", with_conditions) + b"201" + b'{"never":"shown"}'
        for body in (with_conditions, PLAIN):
            await redis.submit(name, ("SET", name, earlier))
            again = await post(client, body, "old")
            assert (again.status, again.replayed, again.body) == (201, True, first.body)


def test_the_fingerprint_is_of_method_path_and_body() -> None:
    """Changing the method, the path or the body changes the fingerprint."""
    asked = [("POST", "/a", b"{}"), ("PUT", "/a", b"{}"), ("POST", "/b", b"{}"), ("POST", "/a", b"{ }")]
    assert len({fingerprint(*request) for request in asked}) == 4


async def test_a_wrong_request_is_wrong_under_any_key(funded: Client) -> None:
    """The shape is checked before the key, so an invalid request is a 400 under a bound key too."""
    await post(funded, order(), "bound")
    answer = await post(funded, order(amount=0), "bound")
    assert (answer.status, answer.code) == (400, "invalid_request")


async def test_a_key_bound_to_a_refusal_answers_no_other_request(client: Client) -> None:
    """A refusal binds the key as a transfer does, and the refused attempt can be read."""
    refused = await post(client, order(), "refused")
    assert refused.code == "account_not_found"
    answer = await post(client, order(amount=11), "refused")
    assert (answer.status, answer.code, answer.json["fields"]) == (422, "idempotency_key_reused", ["amount"])
    kept = (await client.get(f"/v1/transfers/{answer.json['transfer_id']}")).json
    assert (kept["state"], kept["amount"], kept["problem"]) == ("refused", 10, refused.json)


async def _open_bob(client: Client) -> Answer:
    return await client.open("bob")


async def _fund_alice(client: Client) -> Answer:
    return await client.transfer("world", "alice", 1)


async def _patch_bob(client: Client) -> Answer:
    return await client.send("PATCH", "/v1/accounts/bob", {"closed": False, "ceiling": None})


@pytest.mark.parametrize(
    ("bob", "body", "code", "remedy"),
    [
        pytest.param(None, order(), "account_not_found", _open_bob, id="the account is opened afterwards"),
        pytest.param({}, order(amount=101), "insufficient_funds", _fund_alice, id="the funds arrive afterwards"),
        pytest.param({"closed": True}, order(), "account_closed", _patch_bob, id="the account is opened again"),
        pytest.param({"ceiling": 9}, order(), "ceiling_exceeded", _patch_bob, id="the ceiling is lifted"),
        pytest.param(
            {}, order(conditions={"source_version": 3}), "condition_failed", _fund_alice, id="the condition comes true"
        ),
    ],
)
async def test_a_refusal_is_for_ever(
    client: Client, bob: dict[str, object] | None, body: dict[str, object], code: str, remedy: object
) -> None:
    """A refusal stays bound to its key for ever, byte for byte, even if a new key would succeed."""
    await client.fund("alice", 100)
    if bob is not None:
        await client.open("bob", ceiling=bob.get("ceiling"))
        if "closed" in bob:
            await client.send("PATCH", "/v1/accounts/bob", bob)
    first = await post(client, body, "late")
    assert (first.code, first.json["outcome"], first.json["retry"]) == (code, "refused", "new_key")
    assert not first.replayed
    assert callable(remedy)
    assert (await remedy(client)).status in (200, 201)
    again = await post(client, body, "late")
    assert (again.status, again.replayed, again.body) == (first.status, True, first.body)
    assert again.headers["Content-Type"] == "application/problem+json"
    assert await client.balance("bob") == 0
    assert (await post(client, body, "in-time")).status == 201


async def _unauthorized(client: Client, body: bytes, key: str, service: Service, ledger: str) -> Answer:
    return await post(Client(client.session, client.url, None), body, key)


async def _forbidden(client: Client, body: bytes, key: str, service: Service, ledger: str) -> Answer:
    return await post(await service.client(ledger, "read"), body, key)


async def _shapeless(client: Client, body: bytes, key: str, service: Service, ledger: str) -> Answer:
    return await post(client, body[:-1], key)


async def _too_large(client: Client, body: bytes, key: str, service: Service, ledger: str) -> Answer:
    return await post(client, body + b" " * 65_536, key)


async def _not_json(client: Client, body: bytes, key: str, service: Service, ledger: str) -> Answer:
    headers = {"Idempotency-Key": key, "Content-Type": "text/plain"}
    return await client.send("POST", "/v1/transfers", raw=body, headers=headers)


@pytest.mark.parametrize(
    ("status", "fail"),
    [(400, _shapeless), (401, _unauthorized), (403, _forbidden), (413, _too_large), (415, _not_json)],
)
async def test_what_never_reached_the_ledger_binds_nothing(
    funded: Client, service: Service, ledger: str, status: int, fail: object
) -> None:
    """After a 400, 401, 403, 413 or 415 the key is free, and the request can be sent under it."""
    body = b'{"source":"alice","destination":"bob","amount":10,"currency":"EUR"}'
    assert callable(fail)
    failed: Answer = await fail(funded, body, "free", service, ledger)
    assert (failed.status, failed.json["outcome"]) == (status, "not_applied")
    assert (await bound(funded, "free")).status == 404
    answer = await post(funded, body, "free")
    assert (answer.status, answer.replayed) == (201, False)


async def test_ledgers_do_not_share_keys(funded: Client, service: Service, ledger: str) -> None:
    """Ledgers do not share keys: the same key in another ledger is unused."""
    other = await service.client(f"{ledger}-other")
    await other.fund("alice", 100)
    await other.open("bob")
    first = await post(funded, order(), "shared")
    assert (await bound(other, "shared")).status == 404
    second = await post(other, order(amount=20), "shared")
    assert (second.status, second.replayed) == (201, False)
    assert (await bound(funded, "shared")).json["id"] == first.json["id"]
    assert (await bound(other, "shared")).json["id"] == second.json["id"]


async def test_replays_of_a_refusal_keep_the_id_of_the_request_that_met_it(client: Client) -> None:
    """The body of a replayed refusal has the first request's id; the header has the current request's id."""
    headers = {"Idempotency-Key": "lost"}
    first = await client.send("POST", "/v1/transfers", order(), headers={**headers, "X-Request-Id": "one"})
    again = await client.send("POST", "/v1/transfers", order(), headers={**headers, "X-Request-Id": "two"})
    assert first.json["request_id"] == again.json["request_id"] == "one"
    assert (first.headers["X-Request-Id"], again.headers["X-Request-Id"]) == ("one", "two")
    assert without_request_id(first) == without_request_id(again)
