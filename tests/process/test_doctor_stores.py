"""`tallystick doctor` on stores whose own settings would make the service forget."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import NO_REDIS, call
from tests.support.postgres import administer
from tests.support.service import WEBHOOK_KEY, in_process
from tests.support.valkey import OwnValkey, running_valkey


@pytest.fixture(scope="module")
def valkey() -> Iterator[OwnValkey]:
    """A server whose memory these tests bound."""
    with tempfile.TemporaryDirectory(prefix="ts-") as folder, running_valkey(Path(folder)) as server:
        yield server


@pytest.mark.parametrize(
    ("maxmemory", "policy", "said"),
    [
        ("100mb", "allkeys-lru", "evicts limits too when it is full"),
        ("100mb", "allkeys-random", "evicts limits too when it is full"),
        ("100mb", "noeviction", "refuses writes when it is full: each worker then limits on its own"),
        ("100mb", "volatile-lru", ""),
        ("100mb", "volatile-ttl", ""),
        ("0", "allkeys-lru", ""),
        ("0", "noeviction", ""),
    ],
)
async def test_memory_of_redis(database_url: str, valkey: OwnValkey, maxmemory: str, policy: str, said: str) -> None:
    """A Redis that may evict limits, or refuse writes, is a fault that names the policy and the one to set."""
    valkey.ask("CONFIG", "SET", "maxmemory", maxmemory)
    valkey.ask("CONFIG", "SET", "maxmemory-policy", policy)
    end = await call("doctor", database_url=database_url, redis_url=valkey.url)
    if not said:
        assert (end.code, "ok    Redis" in end.out) == (0, True), end
        return
    assert end.code == 1
    assert "FAULT Redis" in end.out
    assert said in end.out
    assert f"(maxmemory-policy {policy}): set maxmemory-policy volatile-lru" in end.out


async def test_memory_that_is_not_told(database_url: str, valkey: OwnValkey) -> None:
    """Where `INFO memory` is forbidden nothing is said of memory."""
    valkey.ask("ACL", "SETUSER", "short", "on", ">pw", "~*", "+@all", "-info", "+info|server")
    url = f"redis://short:pw@127.0.0.1:{valkey.port}"
    end = await call("doctor", database_url=database_url, redis_url=url)
    assert (end.code, "ok    Redis" in end.out) == (0, True), end


async def test_runs_that_are_not_told(database_url: str) -> None:
    """Where the service may not ask for what tells a restored copy apart, doctor says what is missing."""
    await administer(database_url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    end = await call("doctor", database_url=database_url, redis_url=NO_REDIS)
    assert "FAULT Postgres" in end.out
    assert "permission denied for function pg_control_system" in end.out
    assert "grant tallystick_service EXECUTE on that function" in end.out


OTHER_KEY = "b" * 42 + "A="


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            None,
            "there are endpoints but no key to decrypt their secrets, so nothing is sent: set TALLYSTICK_WEBHOOK_KEY",
        ),
        (OTHER_KEY, "the secrets of 1 endpoint cannot be decrypted: add the key that encrypted them to"),
        (f"{OTHER_KEY},{WEBHOOK_KEY}", ""),
    ],
)
async def test_key_of_webhooks(database_url: str, redis_url: str, key: str | None, said: str) -> None:
    """Without the key that secrets were encrypted under nothing is sent, and doctor says so; the key is not shown."""
    async with in_process(database_url, redis_url) as service:
        client = await service.client("books")
        answer = await client.post("/v1/webhook-endpoints", {"url": "https://example.com/"})
        assert answer.status == 201, answer
    settings = {} if key is None else {"webhook_key": key}
    end = await call("doctor", database_url=database_url, redis_url=redis_url, **settings)
    assert (said in end.out) if said else (end.code, "ok    webhooks" in end.out) == (0, True), end
    assert ("FAULT webhooks" in end.out) == bool(said)
    assert OTHER_KEY not in end.out
