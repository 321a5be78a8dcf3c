"""Which key may do what: a matrix of all routes and kinds of keys, and the form of a key."""

import re
import time
import zlib
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from server.gate.key_store import revoke_whole_key
from server.gate.keys import CACHE_SECONDS, Role
from server.http.route import Route
from server.http.routes import ROUTES
from server.store.postgres import Database
from tests.api.probes import GUARDED, OPEN, furnish, probe, route_name
from tests.api.steps import without_request_id
from tests.support.client import Client
from tests.support.service import Service, in_process
from tests.support.waiting import until

Bearers = Callable[[str], Awaitable[Client]]
# Seconds that a worker caches a key in these tests.
SHORT_SECONDS = 2.0


def _checked(body: str) -> str:
    """Return a token's body with its checksum."""
    return f"{body}{zlib.crc32(body.encode()):08x}"


def _other_secret(token: str) -> str:
    """Return a well-formed token with another secret."""
    return _checked(token[:-9] + ("0" if token[-9] != "0" else "1"))


async def revoke(service: Service, token: str) -> None:
    """Revoke a key as `tallystick keys revoke` does."""
    async with Database(service.database_url, posting_connections=1, reading_connections=1) as database:
        await revoke_whole_key(database, token)


@pytest.fixture
def bearer(service: Service, ledger: str) -> Bearers:
    """Make clients of this test's ledger with a key of a given kind."""

    async def make(kind: str) -> Client:
        if kind == "none":
            return Client(service.session, service.url, None)
        client = await service.client(ledger, kind if kind in ("read", "write", "admin") else "admin")
        assert client.token is not None
        if kind == "unknown":
            return Client(service.session, service.url, _other_secret(client.token))
        if kind == "malformed":
            return Client(service.session, service.url, "secret")
        if kind == "revoked":
            await revoke(service, client.token)
        return client

    return make


@pytest.mark.parametrize("route", GUARDED, ids=route_name)
async def test_a_key_may_do_what_its_role_allows(client: Client, bearer: Bearers, route: Route) -> None:
    """Every guarded route answers 401 without a valid key, and 403 below its role; nothing is done."""
    names = await furnish(client)
    before = (await client.get("/v1/accounts")).body
    assert route.role is not None
    below = [role.name.lower() for role in Role if role < route.role]
    for kind in ("none", "malformed", "unknown", "revoked", *below):
        answer = await probe(await bearer(kind), route, names)
        assert (answer.status, answer.code) == ((403, "forbidden") if kind in below else (401, "unauthorized")), kind
        assert ("WWW-Authenticate" in answer.headers) == (kind not in below), kind
    assert (await client.get("/v1/accounts")).body == before


SERVED = [
    pytest.param(route, role, id=f"{route_name(route)}-{role.name}")
    for route in GUARDED
    for role in Role
    if route.role and role >= route.role
]


@pytest.mark.parametrize(("route", "role"), SERVED)
async def test_from_its_role_on_a_route_serves(client: Client, bearer: Bearers, route: Route, role: Role) -> None:
    """A key with the route's role, or a higher one, is served."""
    answer = await probe(await bearer(role.name.lower()), route, await furnish(client))
    assert answer.status in (200, 201), answer


@pytest.mark.parametrize("route", OPEN, ids=route_name)
async def test_open_routes_ask_for_no_key(client: Client, bearer: Bearers, route: Route) -> None:
    """Probes and pages are served with any key and without."""
    names = await furnish(client)
    for kind in ("none", "malformed", "unknown", "revoked", "read", "admin"):
        assert (await probe(await bearer(kind), route, names)).status == 200, kind


def test_writing_takes_more_than_reading() -> None:
    """Every write needs at least the role write; reads need read or nothing, except those for admins."""
    for route in ROUTES:
        if route.method == "GET":
            administered = route.path.startswith(("/v1/webhook-endpoints", "/v1/api-keys", "/v1/integrity"))
            assert route.role in ((Role.ADMIN,) if administered else (None, Role.READ)), route
        else:
            assert route.role is not None, route
            assert route.role >= Role.WRITE, route


async def test_a_refused_key_learns_nothing(client: Client, bearer: Bearers) -> None:
    """Malformed, unknown and revoked keys get the same answer, whether the resource exists or not."""
    names = await furnish(client)
    answers = [
        without_request_id(await (await bearer(kind)).get(f"/v1/accounts/{account}"))
        for kind in ("none", "malformed", "unknown", "revoked")
        for account in (names.account, "nobody")
    ]
    assert all(answer == answers[0] for answer in answers)
    reader = await bearer("read")
    forbidden = [
        without_request_id(await reader.send("PATCH", f"/v1/accounts/{account}", {"closed": True}))
        for account in (names.account, "nobody")
    ]
    assert forbidden[0] == forbidden[1]


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that the service has read with so far."""
    names: list[str] = []
    original = Database.read

    async def read(self: Database, name: str, *arguments: object) -> "list[asyncpg.Record]":
        names.append(name)
        return await original(self, name, *arguments)

    monkeypatch.setattr(Database, "read", read)
    return names


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda t: t[:-1] + ("0" if t[-1] != "0" else "1"), id="another checksum"),
        pytest.param(lambda t: _other_secret(t)[:-8] + t[-8:], id="another secret"),
        pytest.param(lambda t: re.sub(r"tsk_(\w)", r"tsk_1\1", t, count=1), id="another ledger"),
        pytest.param(lambda t: t.upper(), id="capitals"),
        pytest.param(lambda t: t[:-1], id="one character less"),
        pytest.param(lambda t: t + "0", id="one character more"),
        pytest.param(lambda t: "sk" + t[2:], id="another prefix"),
        pytest.param(lambda t: t.replace("_", "-"), id="other separators"),
        pytest.param(lambda t: t.rpartition("_")[0], id="no secret"),
        pytest.param(lambda t: "x" * 4_000, id="something long"),
        pytest.param(lambda t: _checked("tsk_" + "f" * 16 + "_" + t[:-8].split("_", 2)[2]), id="a ledger too large"),
    ],
)
async def test_what_cannot_be_a_key_is_not_looked_up(
    client: Client, looked_up: list[str], spoil: Callable[[str], str]
) -> None:
    """A key with a wrong form or checksum is refused without a query to the database."""
    assert client.token is not None
    spoilt = Client(client.session, client.url, spoil(client.token))
    assert (await spoilt.get("/v1/accounts")).status == 401
    assert looked_up == []
    assert (await client.get("/v1/accounts")).status == 200
    assert looked_up == ["api_key_read_many", "account_page"]


async def test_an_unknown_key_is_looked_up_once(client: Client, bearer: Bearers, looked_up: list[str]) -> None:
    """The result of a key's lookup is cached, for unknown keys too."""
    stranger = await bearer("unknown")
    looked_up.clear()
    for _ in range(3):
        assert (await stranger.get("/v1/accounts")).status == 401
    assert looked_up == ["api_key_read_many"]
    looked_up.clear()
    for _ in range(3):
        assert (await client.get("/v1/accounts/nobody")).status == 404
    assert looked_up.count("api_key_read_many") == 1


async def test_a_key_opens_only_its_own_ledger(client: Client, service: Service, ledger: str) -> None:
    """A key contains its ledger's number: the same secret with another number is unknown."""
    other = await service.client(f"{ledger}-other")
    assert client.token is not None
    assert other.token is not None
    number = other.token.split("_")[1]
    forged = _checked("_".join(["tsk", number, *client.token[:-8].split("_")[2:]]))
    assert (await Client(client.session, client.url, forged).get("/v1/accounts")).status == 401


@pytest.mark.parametrize(
    ("form", "status"),
    [
        *(("Bearer {}", 200), ("bearer {}", 200), ("BEARER {}", 200)),
        *(("Basic {}", 401), ("{}", 401), ("Bearer", 401), ("Bearer {} x", 401), ("Bearer, {}", 401), ("", 401)),
    ],
)
async def test_a_key_is_sent_as_a_bearer_token(client: Client, form: str, status: int) -> None:
    """A key is accepted only with the scheme Bearer, in any case, and not in a query."""
    headers = {"Authorization": form.format(client.token)}
    assert (await client.send("GET", "/v1/accounts", headers=headers)).status == status
    bare = Client(client.session, client.url, None)
    assert (await bare.get(f"/v1/accounts?access_token={client.token}")).status == 401


async def test_a_revoked_key_is_refused_within_five_seconds(
    client: Client, service: Service, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has just used the key accepts it for a few seconds, others not at all; other keys stay valid."""
    assert CACHE_SECONDS <= 5
    monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", SHORT_SECONDS)
    doomed = await service.client(ledger)
    assert doomed.token is not None
    assert (await doomed.get("/v1/accounts")).status == 200
    await revoke(service, doomed.token)
    revoked_at = time.monotonic()
    async with in_process(service.database_url) as elsewhere:
        there = Client(elsewhere.session, elsewhere.url, doomed.token)
        assert (await there.get("/v1/accounts")).status == 401

    async def refused() -> bool:
        sent_at = time.monotonic()
        answer = await doomed.get("/v1/accounts")
        assert answer.status == 401 or sent_at - revoked_at < SHORT_SECONDS
        return answer.status == 401

    await until(refused)
    assert (await doomed.get("/v1/accounts")).status == 401
    assert (await client.get("/v1/accounts")).status == 200
