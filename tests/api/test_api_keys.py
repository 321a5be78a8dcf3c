"""API keys over the API: created, shown once, listed, changed, rotated, revoked and expired."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from server.gate.tokens import TOKEN_FORM
from tests.support.client import Client
from tests.support.service import Service, in_process
from tests.support.waiting import until

KEYS = "/v1/api-keys"
LATER = "2099-12-31T23:59:59.000000Z"


async def make(client: Client, **fields: object) -> Any:
    """Create a key and return it."""
    answer = await client.post(KEYS, {"role": "read", **fields})
    assert answer.status == 201, answer
    return answer.json


def with_token(client: Client, token: str) -> Client:
    """Return a client that sends another token."""
    return Client(client.session, client.url, token)


async def opens(client: Client, token: str) -> bool:
    """Return whether a worker that has never seen the token accepts it."""
    return (await with_token(client, token).get("/v1/limits")).status == 200


def without_token(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return a key as later answers show it."""
    return {name: value for name, value in key.items() if name != "token"}


async def test_a_key_is_made_and_its_token_shown_once(client: Client) -> None:
    """The answer has the token, which works at once, and no later answer has it."""
    asked = {
        "role": "write",
        "description": "web shop",
        "accounts": ["customer:", "merchant:"],
        "expires_at": LATER,
        "rate": "100/min",
        "burst": 20,
        "concurrency": 5,
    }
    answer = await client.post(KEYS, asked)
    assert (answer.status, answer.headers["Cache-Control"]) == (201, "no-store")
    key = answer.json
    assert {name: key[name] for name in asked} == asked
    assert (key["revoked_at"], key["last_used_at"], key["previous_tokens_until"]) == (None, None, None)
    assert TOKEN_FORM.fullmatch(key["token"].encode())
    assert key["token"].split("_")[2] == key["id"]
    used = await with_token(client, key["token"]).get("/v1/limits")
    assert used.headers["RateLimit-Policy"] == '"default";q=100;w=60'
    assert used.json["concurrency"]["limit"] == 5
    for path in (KEYS, f"{KEYS}/{key['id']}"):
        assert key["token"].encode() not in (await client.get(path)).body
    assert (await client.get(f"{KEYS}/{key['id']}")).json == without_token(key)


async def test_what_is_left_out_is_the_default(client: Client) -> None:
    """A key needs only a role: by default it has the service's limits, the whole ledger, and no expiry."""
    key = await make(client)
    absent = ("description", "accounts", "expires_at", "rate", "burst", "concurrency")
    assert [key[name] for name in absent] == [None] * len(absent)
    policy = (await with_token(client, key["token"]).get("/v1/limits")).headers["RateLimit-Policy"]
    assert policy == '"default";q=1000;w=1'


async def test_a_ledger_has_so_many_keys(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger has a maximum of keys that are not revoked; a revocation makes room."""
    monkeypatch.setattr("server.gate.key_store.KEYS_OF_LEDGER_MAX", 3)
    made = [await make(client) for _ in range(2)]
    answer = await client.post(KEYS, {"role": "read"})
    assert (answer.status, answer.code, answer.json["outcome"]) == (409, "api_keys_full", "not_applied")
    assert (await client.send("DELETE", f"{KEYS}/{made[0]['id']}")).status == 200
    await make(client)


async def test_prefixes_that_others_cover_are_left_out(client: Client) -> None:
    """A key's prefixes are shown in order, without those that another prefix covers."""
    key = await make(client, accounts=["shop:", "customer:42", "customer:", "shop:", "s"])
    assert key["accounts"] == ["customer:", "s"]


REFUSED = [
    pytest.param({"role": None}, "/role", id="no role"),
    pytest.param({"role": "owner"}, "/role", id="a role that there is not"),
    pytest.param({"rate": "fast"}, "/rate", id="a rate that is none"),
    pytest.param({"rate": 100}, "/rate", id="a rate that is a number"),
    pytest.param({"rate": ""}, "/rate", id="an empty rate"),
    pytest.param({"burst": 0}, "/burst", id="no burst"),
    pytest.param({"burst": 1_000_001}, "/burst", id="a burst too large"),
    pytest.param({"rate": "1/day", "burst": 1_000_000}, "/burst", id="a burst too large for its rate"),
    pytest.param({"concurrency": True}, "/concurrency", id="a truth for a number"),
    pytest.param({"description": "x" * 1_001}, "/description", id="a description too long"),
    pytest.param({"description": "\x00"}, "/description", id="NUL"),
    pytest.param({"expires_at": "tomorrow"}, "/expires_at", id="no instant"),
    pytest.param({"expires_at": "2099-12-31T23:59:59"}, "/expires_at", id="an instant without offset"),
    pytest.param({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at", id="an instant that has passed"),
    pytest.param({"accounts": []}, "/accounts", id="no accounts"),
    pytest.param({"accounts": [""]}, "/accounts/0", id="an empty prefix"),
    pytest.param({"accounts": ["customer:*"]}, "/accounts/0", id="a pattern"),
    pytest.param({"accounts": ["a\n"]}, "/accounts/0", id="a line feed"),
    pytest.param({"accounts": ["a" * 65]}, "/accounts/0", id="a prefix too long"),
    pytest.param({"accounts": [f"a{n}" for n in range(21)]}, "/accounts", id="too many prefixes"),
    pytest.param({"accounts": "customer:"}, "/accounts", id="a text for a list"),
    pytest.param({"id": "0" * 16}, "/id", id="a field that there is not"),
    pytest.param({"token": "tsk_1"}, "/token", id="a token of one's own"),
]


@pytest.mark.parametrize(("fields", "pointer"), REFUSED)
async def test_what_a_key_cannot_be(client: Client, fields: dict[str, Any], pointer: str) -> None:
    """A wrong field is named when a key is created or changed, and nothing is done."""
    key = await make(client)
    before = (await client.get(KEYS)).json["data"]
    answers = [await client.post(KEYS, {"role": "read", **fields})]
    if "role" not in fields:
        answers.append(await client.send("PATCH", f"{KEYS}/{key['id']}", fields))
    for answer in answers:
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert answer.json["errors"][0]["pointer"] == pointer, answer.json
    after = (await client.get(KEYS)).json["data"]
    assert [without_use(key) for key in after] == [without_use(key) for key in before]


def without_use(key: dict[str, Any]) -> dict[str, Any]:
    """Return a key without the minute of its last use."""
    return {**key, "last_used_at": None}


async def test_the_list_has_pages(client: Client) -> None:
    """Keys are listed newest first, page by page, revoked ones too; a cursor stays valid while keys are created."""
    made = [await make(client, description=str(n)) for n in range(5)]
    await client.send("DELETE", f"{KEYS}/{made[2]['id']}")
    found = []
    cursor = ""
    while True:
        page = (await client.get(f"{KEYS}?limit=2{cursor}")).json
        found += page["data"]
        await make(client, description="later")
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    ids = [key["id"] for key in found if key["description"] not in (None, "later")]
    assert ids == [key["id"] for key in reversed(made)]
    assert [key["revoked_at"] is not None for key in found if key["id"] == made[2]["id"]] == [True]
    for text in ("?cursor=nothing", "?limit=0", "?role=read"):
        assert (await client.get(KEYS + text)).status == 400


async def test_a_change_names_what_it_changes(client: Client) -> None:
    """Omitted fields stay unchanged, and null removes a key's own value."""
    key = await make(client, description="one", rate="5/min", burst=9, accounts=["a:"], expires_at=LATER)
    path = f"{KEYS}/{key['id']}"
    expected = without_token(key)
    steps: list[dict[str, Any]] = [
        {},
        {"description": "two"},
        {"rate": "6/h", "concurrency": 3},
        {"burst": None, "accounts": ["b:", "c:"]},
        {"expires_at": "2098-01-01T00:00:00.000000Z"},
        {"expires_at": None, "accounts": None, "rate": None, "description": None, "concurrency": None},
    ]
    for step in steps:
        expected.update(step)
        answer = await client.send("PATCH", path, step)
        assert (answer.status, answer.json) == (200, expected)
        assert (await client.get(path)).json == expected


async def test_a_burst_is_held_against_the_rate_that_stays(client: Client) -> None:
    """A changed burst is checked against the key's present rate, and a changed rate against its present burst."""
    path = f"{KEYS}/{(await make(client, rate='1/day'))['id']}"
    answer = await client.send("PATCH", path, {"burst": 1_000_000})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "/burst")
    assert (await client.send("PATCH", path, {"burst": 1_000_000, "rate": "1/s"})).status == 200


async def test_a_rotated_key_has_two_tokens_for_a_while(client: Client) -> None:
    """The new token and the one before it are accepted for the same key: its id, limits and bucket stay."""
    key = await make(client, rate="5/h", burst=5)
    answer = await client.post(f"{KEYS}/{key['id']}/rotate", {"overlap_seconds": 3_600})
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    new = answer.json
    assert new["token"] != key["token"]
    assert without_use({**new, "token": "", "previous_tokens_until": None}) == without_use({**key, "token": ""})
    until_then = datetime.fromisoformat(new["previous_tokens_until"]) - datetime.now(UTC)
    assert timedelta(seconds=3_500) < until_then <= timedelta(seconds=3_600)
    left = [
        (await with_token(client, token).get("/v1/accounts")).headers["RateLimit"].split(";")[1]
        for token in (key["token"], new["token"], key["token"])
    ]
    assert left == ["r=4", "r=3", "r=2"]
    assert (await client.get(f"{KEYS}/{key['id']}")).json["previous_tokens_until"] == new["previous_tokens_until"]


async def test_no_overlap_ends_all_tokens_before(client: Client) -> None:
    """After a leak a rotation without overlap ends all earlier tokens at once, those of an earlier rotation too."""
    key = await make(client)
    path = f"{KEYS}/{key['id']}/rotate"
    second = (await client.post(path, {})).json
    third = (await client.post(path, {"overlap_seconds": 0})).json
    assert third["previous_tokens_until"] is None
    tokens = [found["token"] for found in (key, second, third)]
    assert [await opens(client, token) for token in tokens] == [False, False, True]


async def test_who_lost_the_new_token_rotates_again(client: Client) -> None:
    """The first token keeps working through its overlap if a client loses the new token and rotates again."""
    key = await make(client)
    rotated = [await client.send("POST", f"{KEYS}/{key['id']}/rotate") for _ in range(4)]
    assert [answer.status for answer in rotated] == [200] * 4
    assert await opens(client, key["token"])
    assert await opens(client, rotated[-1].json["token"])


async def test_the_end_of_an_overlap(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced token works until its overlap ends and no longer, once a worker has read that end."""
    monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", 0.5)
    key = await make(client)
    old = with_token(client, key["token"])
    assert (await old.get("/v1/limits")).status == 200
    ended = (await client.post(f"{KEYS}/{key['id']}/rotate", {"overlap_seconds": 2})).json["previous_tokens_until"]
    await _ends_at(old, datetime.fromisoformat(ended))
    assert (await client.get(f"{KEYS}/{key['id']}")).json["previous_tokens_until"] is None


async def _ends_at(client: Client, instant: datetime) -> None:
    """Check that a token works until an instant, by the database's clock, which is this machine's."""

    async def ended() -> bool:
        asked = datetime.now(UTC)
        opened = await _is_good(client)
        assert not opened or asked < instant, "it opened something after its end"
        return not opened

    await until(ended)
    assert datetime.now(UTC) >= instant, "it ended too early"


async def test_a_key_ends_at_its_instant(client: Client) -> None:
    """From `expires_at` on a key is refused, even if it was read a moment ago; a later `expires_at` revives it."""
    at = datetime.now(UTC) + timedelta(seconds=2)
    key = await make(client, expires_at=at.isoformat())
    doomed = with_token(client, key["token"])
    await _ends_at(doomed, datetime.fromisoformat(key["expires_at"]))
    path = f"{KEYS}/{key['id']}"
    answer = await client.post(f"{path}/rotate", {})
    assert (answer.status, answer.code) == (409, "api_key_ended")
    assert (await client.send("PATCH", path, {"expires_at": LATER})).status == 200
    await until(lambda: _is_good(doomed))


async def _is_good(client: Client) -> bool:
    return (await client.get("/v1/limits")).status == 200


async def test_a_revoked_key_stays_revoked(client: Client) -> None:
    """A second revocation is answered as the first, and neither a change nor a rotation makes the key valid again."""
    key = await make(client)
    path = f"{KEYS}/{key['id']}"
    assert (await client.post(f"{path}/rotate", {})).json["previous_tokens_until"] is not None
    first, second = [await client.send("DELETE", path) for _ in range(2)]
    assert (first.status, second.status) == (200, 200)
    assert first.json["revoked_at"] is not None
    assert first.json["previous_tokens_until"] is None
    assert second.json == first.json
    for method, end in (("PATCH", ""), ("POST", "/rotate")):
        answer = await client.send(method, path + end, {})
        assert (answer.status, answer.code, answer.json["retry"]) == (409, "api_key_ended", "never")
    assert not await opens(client, key["token"])


async def test_a_key_may_end_itself(service: Service, ledger: str) -> None:
    """A leaked key can revoke itself, and the answer shows it as revoked."""
    client = await service.client(ledger)
    assert client.token is not None
    own = client.token.split("_")[2]
    assert (await client.send("DELETE", f"{KEYS}/{own}")).json["revoked_at"] is not None

    async def refused() -> bool:
        return not await _is_good(client)

    await until(refused)


SOON = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
SOONER = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
SLOW = {"rate": "60/min", "burst": 10, "concurrency": 5}
# The fields of the key that asks, what it asks for (on itself or another key), and whether it is allowed.
MORE_THAN_IT_HAS = [
    pytest.param({}, "make", {}, True, id="a key for ever by one for ever"),
    pytest.param({"expires_at": SOON}, "make", {}, False, id="a key for ever"),
    pytest.param({"expires_at": SOON}, "make", {"expires_at": LATER}, False, id="a key for longer"),
    pytest.param({"expires_at": SOON}, "make", {"expires_at": SOON}, True, id="a key for as long"),
    pytest.param({"expires_at": SOON}, "make", {"expires_at": SOONER}, True, id="a key for a shorter time"),
    pytest.param({"expires_at": SOON}, "itself", {"expires_at": None}, False, id="no end"),
    pytest.param({"expires_at": SOON}, "itself", {"expires_at": LATER}, False, id="a later end"),
    pytest.param({"expires_at": SOON}, "itself", {"expires_at": SOONER}, True, id="an earlier end"),
    pytest.param({"expires_at": SOON}, "itself", {"description": "x", "expires_at": SOON}, True, id="the same end"),
    pytest.param({"expires_at": SOON}, "other", {"expires_at": LATER}, False, id="a later end of another key"),
    pytest.param({"expires_at": SOON}, "other", {"expires_at": SOONER}, True, id="an earlier end of another key"),
    pytest.param({"expires_at": SOON}, "other", {"description": "x"}, True, id="another word of another key"),
    pytest.param({"expires_at": SOON}, "rotate other", {}, False, id="a token of a key for ever"),
    pytest.param({"expires_at": SOON}, "rotate itself", {}, True, id="a token of its own"),
    pytest.param({"expires_at": SOON}, "revoke other", {}, True, id="the end of another key"),
    pytest.param(SLOW, "itself", {"rate": "2/s"}, False, id="a higher rate"),
    pytest.param(SLOW, "itself", {"rate": None}, False, id="the service's rate"),
    pytest.param(SLOW, "itself", {"burst": 11}, False, id="a larger burst"),
    pytest.param(SLOW, "itself", {"burst": None}, False, id="a burst of the rate's number"),
    pytest.param(SLOW, "itself", {"concurrency": 6}, False, id="more at once"),
    pytest.param(SLOW, "itself", {"concurrency": None}, False, id="as many at once as the service's"),
    pytest.param(SLOW, "itself", {"rate": "1/s", "burst": 9, "concurrency": 4}, True, id="lower limits"),
    pytest.param({}, "itself", {"rate": "1001/s"}, False, id="more than the service's rate"),
    pytest.param({}, "itself", {"rate": "1000/s"}, True, id="as much as the service's rate"),
    pytest.param(SLOW, "other", {"rate": "500/s", "burst": None}, True, id="a higher rate of another key"),
    pytest.param(SLOW, "make", {"rate": "500/s"}, True, id="a key with a higher rate"),
    pytest.param({"accounts": ["a:"]}, "itself", {"accounts": None}, False, id="the whole ledger"),
    pytest.param({"accounts": ["a:"]}, "itself", {"accounts": ["a:", "b:"]}, False, id="further accounts"),
    pytest.param({"accounts": ["a:"]}, "make", {}, False, id="a key of the whole ledger"),
    pytest.param({}, "itself", {"role": "admin"}, None, id="another role"),
]


@pytest.mark.parametrize(("own", "asked", "fields", "done"), MORE_THAN_IT_HAS)
async def test_no_key_gives_more_than_it_has(
    client: Client, own: dict[str, Any], asked: str, fields: dict[str, Any], done: bool | None
) -> None:
    """No key can extend its own expiry, create a key that outlives it, raise its own limits or widen its own view."""
    other = await make(client, role="admin", description="other")
    key = await make(client, role="admin", **own)
    asking = with_token(client, key["token"])
    itself, others = f"{KEYS}/{key['id']}", f"{KEYS}/{other['id']}"
    method, path = {
        "make": ("POST", KEYS),
        "itself": ("PATCH", itself),
        "other": ("PATCH", others),
        "rotate itself": ("POST", f"{itself}/rotate"),
        "rotate other": ("POST", f"{others}/rotate"),
        "revoke other": ("DELETE", others),
    }[asked]
    answer = await asking.send(method, path, {"role": "admin", **fields} if asked == "make" else fields)
    if done:
        assert answer.status in (200, 201), answer.json
    else:
        assert (answer.status, answer.code) == ((400, "invalid_request") if done is None else (403, "forbidden"))
        assert without_use((await client.get(itself)).json) == without_use(without_token(key))
        assert without_use((await client.get(others)).json) == without_use(without_token(other))


async def test_a_replaced_token_still_rotates(client: Client) -> None:
    """A replaced token may rotate its key again: only the token expires, not the key."""
    key = await make(client, role="admin")
    old = with_token(client, key["token"])
    path = f"{KEYS}/{key['id']}/rotate"
    answers = [await old.post(path, {"overlap_seconds": 600}) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert await opens(client, answers[1].json["token"])


@pytest.mark.parametrize("name", ["nothing", "0" * 16, "0" * 15, "F" * 16, "0" * 17, "%00"])
async def test_a_key_that_is_not_there(client: Client, name: str) -> None:
    """A malformed id and an unknown id are the same 404."""
    for method, end in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
        answer = await client.send(method, f"{KEYS}/{name}{end}", None if method == "GET" else {})
        assert (answer.status, answer.code) == (404, "api_key_not_found")


async def test_a_token_is_not_an_id(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A whole token in place of an id is the same 404, which asks for the id; nothing repeats it."""
    caplog.set_level("DEBUG")
    token = (await make(client))["token"]
    for method, end in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
        answer = await client.send(method, f"{KEYS}/{token}{end}", None if method == "GET" else {})
        assert (answer.status, answer.code) == (404, "api_key_not_found")
        assert answer.json["detail"].startswith("Name the key by its id alone")
        assert token.encode() not in answer.body
    assert await opens(client, token)
    assert token not in "".join(str(record.__dict__) for record in caplog.records if record.name.startswith("server"))


async def test_the_minute_of_the_last_use(database_url: str, redis_url: str) -> None:
    """A use by either token is shown to the minute once it is written, at the latest when the worker stops."""
    async with in_process(database_url, redis_url) as service:
        client = await service.client("books")
        key = await make(client)
        rotated = (await client.post(f"{KEYS}/{key['id']}/rotate", {})).json
        assert rotated["last_used_at"] is None
        before = datetime.now(UTC).replace(second=0, microsecond=0)
        assert await opens(client, key["token"])
        assert (await client.get(f"{KEYS}/{key['id']}")).json["last_used_at"] is None
    async with in_process(database_url, redis_url) as service:
        used = (await with_token(await service.client("books"), client.token or "").get(f"{KEYS}/{key['id']}")).json
    at = datetime.fromisoformat(used["last_used_at"])
    assert before <= at <= datetime.now(UTC)
    assert (at.second, at.microsecond) == (0, 0)


async def test_uses_that_cannot_be_written_are_kept(service: Service, client: Client) -> None:
    """While a key's row is locked, its use is written later; no request and no other key's use waits for it."""
    assert service.app is not None
    key, other = await make(client), await make(client)
    assert await opens(client, key["token"])
    assert await opens(client, other["token"])
    uses = service.app.authenticator._uses
    connection = await asyncpg.connect(service.database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM tallystick.api_keys WHERE id = $1 FOR UPDATE", key["id"])
            await uses.write()
            assert key["id"] in {name for _, name in uses._uses}
            assert other["id"] not in {name for _, name in uses._uses}
            assert (await client.get(f"{KEYS}/{other['id']}")).json["last_used_at"] is not None
            assert await opens(client, key["token"])
    finally:
        await connection.close()
    await uses.write()
    assert (await client.get(f"{KEYS}/{key['id']}")).json["last_used_at"] is not None


async def test_what_is_done_to_keys_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The log shows who created, changed, rotated and revoked which key, by ids and never by tokens."""
    caplog.set_level("INFO", "server.http.handlers.api_keys")
    key = await make(client)
    path = f"{KEYS}/{key['id']}"
    await client.send("PATCH", path, {"rate": "1/s", "accounts": None})
    rotated = (await client.post(f"{path}/rotate", {"overlap_seconds": 5})).json
    answer = await client.send("DELETE", path)
    records = [record for record in caplog.records if record.name == "server.http.handlers.api_keys"]
    done = ("created", "changed", "rotated", "revoked")
    assert [record.getMessage() for record in records] == [f"API key {what}" for what in done]
    assert client.token is not None
    for record in records:
        fields = record.__dict__["fields"]
        assert (fields["api_key"], fields["by"]) == (key["id"], client.token.split("_")[2])
        for token in (key["token"], rotated["token"], client.token):
            assert token not in json.dumps(fields)
    assert records[1].__dict__["fields"]["fields"] == ["accounts", "rate"]
    assert records[3].__dict__["fields"]["request_id"] == answer.headers["X-Request-Id"]
