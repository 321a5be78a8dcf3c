"""Limits on the command line and in the settings: set, changed while the service runs, shown, and refused."""

import asyncio

import asyncpg
import pytest

from server.app import create_app
from server.gate.default_limits import default_limits
from server.gate.key_store import KeyLimit, list_keys
from server.gate.limits import Limit
from server.settings import Settings, SettingsError
from server.store.postgres import Database
from tests.limits.steps import key_id, left, limit_key, limited, once
from tests.support.client import Client
from tests.support.command import Ended, call, run
from tests.support.service import in_process, make_key

# Seconds within which a change of limits takes effect.
CHANGED_SECONDS = 45.0
CREATE = ("keys", "create", "--ledger", "books", "--role", "read")


def cells(end: Ended) -> list[str]:
    """Return the cells of the one key in the output."""
    _, line = end.out.splitlines()
    return line.split()


async def test_a_key_with_limits(database_url: str, redis_url: str) -> None:
    """The limits given to `keys create` are enforced, and `keys list` shows them."""
    for limits, policy, burst, shown in (
        ((), "q=1000;w=1", 2_000, ("-", "-", "-")),
        (("--rate", "5/min"), "q=5;w=60", 5, ("5/min", "-", "-")),
        (("--rate", "5/h", "--burst", "9"), "q=5;w=3600", 9, ("5/h", "9", "-")),
        (("--burst", "7", "--concurrency", "3"), "q=1000;w=1", 7, ("-", "7", "3")),
        (("--rate", "1/day", "--concurrency", "100000"), "q=1;w=86400", 1, ("1/day", "-", "100000")),
    ):
        made = await call(*CREATE, *limits, database_url=database_url)
        assert (made.code, made.err) == (0, "")
        async with in_process(database_url, redis_url) as service:
            client = Client(service.session, service.url, made.out.strip())
            answer = await client.get("/v1/accounts")
        assert (answer.status, answer.headers["RateLimit-Policy"]) == (200, f'"default";{policy}')
        assert left(answer) == burst - 1
        listed = await call("keys", "list", database_url=database_url)
        (line,) = [line for line in listed.out.splitlines() if key_id(client) in line]
        assert line.split()[2:9] == ["read", line.split()[3], *shown, "-", line.split()[8]]
        assert line.split()[9:] == ["active", "-"]


async def test_limits_change_while_the_service_runs(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change by `keys limit` takes effect when the key is read again; `default` restores the service's limit."""
    monkeypatch.setattr("server.gate.keys.CACHE_SECONDS", 2.0)
    async with in_process(database_url, redis_url) as service:
        client = await limited(service, "books", once(1))
        assert [(await client.get("/v1/accounts")).status for _ in range(2)] == [200, 429]
        change = ("keys", "limit", "--ledger", "books", key_id(client))
        # In its own process, so that the service learns of it only through the database.
        changed = await run(*change, "--rate", "10/s", "--burst", "50", database_url=database_url)
        assert (changed.code, changed.err) == (0, "")
        assert cells(changed)[4:] == ["10/s", "50", "-", "-", "-", "active", "-"]
        async with asyncio.timeout(CHANGED_SECONDS):
            while (answer := await client.get("/v1/accounts")).status == 429:
                pass
        assert answer.headers["RateLimit-Policy"] == '"default";q=10;w=1'
        assert left(answer) <= 49
    back = ("--rate", "default", "--burst", "default")
    changed = await call(*change, *back, database_url=database_url)
    assert cells(changed)[4:8] == ["-"] * 4
    async with in_process(database_url, redis_url) as service:
        client = Client(service.session, service.url, client.token)
        assert (await client.get("/v1/accounts")).headers["RateLimit-Policy"] == '"default";q=1000;w=1'


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (("--rate", ""), "a rate is 1 to 1000000 and /s, /min, /h or /day"),
        (("--rate", "0"), "a rate is 1 to 1000000"),
        (("--rate", "1000001/s"), "a rate is 1 to 1000000"),
        (("--rate", "1/week"), "a rate is 1 to 1000000"),
        (("--burst", "0"), "the burst must be 1 to 1000000"),
        (("--burst", "many"), "the burst must be 1 to 1000000"),
        (("--burst", "\N{SUPERSCRIPT TWO}"), "the burst must be 1 to 1000000"),
        (("--concurrency", ""), "the concurrency must be 1 to 100000"),
        (("--burst", "-5"), "the burst must be 1 to 1000000"),
        (("--burst", "1000001"), "the burst must be 1 to 1000000"),
        (("--concurrency", "0"), "the concurrency must be 1 to 100000"),
        (("--concurrency", "100001"), "the concurrency must be 1 to 100000"),
        (("--rate", "1/day", "--burst", "1000000"), "the burst is too large for so slow a rate"),
    ],
)
async def test_limits_that_cannot_be(database_url: str, limits: tuple[str, ...], text: str) -> None:
    """An invalid limit is refused in one line; no key is created or changed."""
    made = await call(*CREATE, database_url=database_url)
    listed = await call("keys", "list", database_url=database_url)
    for action in (CREATE, ("keys", "limit", "--ledger", "books", made.out.split("_")[2])):
        end = await call(*action, *limits, database_url=database_url)
        assert (end.code, end.out) == (2, "")
        assert end.err.startswith(f"tallystick: {text}")
        assert len(end.err.splitlines()) == 1
    assert await call("keys", "list", database_url=database_url) == listed


STEPS = [
    (("--concurrency", "50"), ("10/s", "20", "50")),
    (("--rate", "5/min"), ("5/min", "20", "50")),
    (("--burst", "9"), ("5/min", "9", "50")),
    (("--rate", "default", "--burst", "8"), ("-", "8", "50")),
    (("--concurrency", "default"), ("-", "8", "-")),
    (("--burst", "default", "--rate", "7/h"), ("7/h", "-", "-")),
    (("--concurrency", "2", "--rate", "default", "--burst", "1000000"), ("-", "1000000", "2")),
]


async def test_what_is_not_named_stays(database_url: str) -> None:
    """`keys limit` changes the named limits, resets those given as `default`, and prints the resulting key."""
    made = await call(*CREATE, "--rate", "10/s", "--burst", "20", database_url=database_url)
    public_id = made.out.split("_")[2]
    for limits, shown in STEPS:
        end = await call("keys", "limit", "--ledger", "books", public_id, *limits, database_url=database_url)
        assert (end.code, end.err) == (0, "")
        assert cells(end)[:3] == ["books", public_id, "read"]
        assert cells(end)[4:] == [*shown, "-", "-", "active", "-"], limits
        assert (await call("keys", "list", database_url=database_url)).out == end.out


async def test_nothing_named(database_url: str) -> None:
    """A change that names no limit is a usage error."""
    end = await call("keys", "limit", "--ledger", "books", "0" * 16, database_url=database_url)
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith("tallystick: name what to change: --rate, --burst or --concurrency, ")


async def test_a_burst_beside_the_rate_that_stays(database_url: str) -> None:
    """A changed burst is checked against the key's rate, and a changed rate against its burst; a misfit is refused."""
    made = await call(*CREATE, "--rate", "1/day", database_url=database_url)
    limit = ("keys", "limit", "--ledger", "books", made.out.split("_")[2])
    refused = (2, "", "tallystick: the burst is too large for so slow a rate\n")
    assert await call(*limit, "--burst", "1000000", database_url=database_url) == refused
    assert (await call(*limit, "--burst", "1000000", "--rate", "1/s", database_url=database_url)).code == 0
    assert await call(*limit, "--rate", "1/day", database_url=database_url) == refused
    default = ("--rate", "default")
    assert await call(*limit, *default, database_url=database_url, rate="1/day", burst="1") == refused
    end = await call(*limit, "--concurrency", "7", database_url=database_url)
    assert cells(end)[4:] == ["1/s", "1000000", "7", "-", "-", "active", "-"]


async def test_changes_at_once(database_url: str) -> None:
    """Changes of different limits of one key at the same time are all kept."""
    token = await make_key(database_url, "books", "read", KeyLimit(10, 1, 20, 30))
    public_id = token.split("_")[2]
    async with Database(database_url, posting_connections=8, reading_connections=4) as database:
        for n in range(1, 21):
            await asyncio.gather(
                limit_key(database, "books", public_id, KeyLimit(100 + n, 60), named={"rate"}),
                limit_key(database, "books", public_id, KeyLimit(burst=200 + n), named={"burst"}),
                limit_key(database, "books", public_id, KeyLimit(concurrency=300 + n), named={"concurrency"}),
            )
            [(_, key)] = await list_keys(database, "books") or []
            assert key.limit == KeyLimit(100 + n, 60, 200 + n, 300 + n)


async def test_a_burst_too_large_for_the_service_s_rate(database_url: str) -> None:
    """A burst that cannot be counted at the service's default rate is refused too."""
    end = await call(*CREATE, "--burst", "1000000", database_url=database_url, rate="1/day")
    assert (end.code, end.err) == (2, "tallystick: the burst is too large for so slow a rate\n")


async def test_a_key_that_is_not_there(database_url: str) -> None:
    """The limits of an unknown key cannot be changed."""
    end = await call("keys", "limit", "--ledger", "books", "0" * 16, "--rate", "1/s", database_url=database_url)
    assert (end.code, end.err) == (2, f"tallystick: the ledger books has no key {'0' * 16}\n")


async def test_a_default_rate_that_became_slow(database_url: str, redis_url: str) -> None:
    """A key's burst that cannot be counted at a new default rate is cut, and the key keeps working."""
    async with in_process(database_url, redis_url, rate="1/day", burst=5) as service:
        client = await limited(service, "books", KeyLimit(burst=1_000_000))
        answer = await client.get("/v1/accounts")
        assert (answer.status, left(answer)) == (200, Limit(1, 86_400, 1_000_000).counted.burst - 1)
        async with Database(database_url, posting_connections=1, reading_connections=1) as database:
            assert await limit_key(database, "books", key_id(client), KeyLimit())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rate": "fast"}, "rate: a rate is"),
        ({"ledger_rate": "0/s"}, "ledger_rate: a rate is"),
        ({"ledger_rate": ""}, "ledger_rate: a rate is"),
        ({"auth_failure_rate": "1/y"}, "auth_failure_rate: a rate is"),
        ({"rate": "1/day", "burst": 1_000_000}, "burst: too large for so slow a rate"),
        ({"ledger_rate": "1/day", "ledger_burst": 1_000_000}, "ledger_burst: too large"),
        ({"auth_failure_rate": "1/day", "auth_failure_burst": 1_000_000}, "auth_failure_burst: too large"),
    ],
)
async def test_settings_that_cannot_be(settings: dict[str, object], text: str) -> None:
    """An invalid default limit is named, and the service does not start."""
    given = Settings(database_url="postgresql://x@127.0.0.1:1/x", redis_url="redis://127.0.0.1:1", **settings)  # type: ignore[arg-type]  # few, by name
    with pytest.raises(SettingsError, match=f"^{text}"):
        default_limits(given)
    with pytest.raises(SettingsError, match=f"^{text}"):
        async with create_app(given):
            pass


async def test_a_key_whose_row_is_locked(database_url: str) -> None:
    """A command that meets a locked row says so, without a PostgreSQL error."""
    key = await make_key(database_url, "books", "read")
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM tallystick.api_keys FOR UPDATE")
            ended = await call("keys", "revoke", "--ledger", "books", key.split("_")[2], database_url=database_url)
    finally:
        await connection.close()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "tallystick: a row is locked by another transaction: try again when that has ended\n"
