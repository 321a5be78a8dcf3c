"""`tallystick doctor` checks a single Redis, a cluster, and an address that fits neither."""

import re
from pathlib import Path

import pytest

from tests.support.client import Client, new_key
from tests.support.command import call, run
from tests.support.service import in_process
from tests.support.valkey import OwnValkey
from tests.support.valkey_cluster import OwnCluster

AWAY = "FAULT Redis\n      - cannot be reached"
REMEDY = "check TALLYSTICK_REDIS_URL"
DEPLOYMENT = Path(__file__).resolve().parents[2] / "docs/how-to/deployment.md"


async def test_one_server(valkey: OwnValkey, database_url: str) -> None:
    """A single server is fine by either of its addresses; it fails as a cluster, and when it is stopped."""
    for url in (valkey.url, valkey.tcp_url):
        end = await call("doctor", database_url=database_url, redis_url=url)
        assert "ok    Redis\n" in end.out, end
    end = await run("doctor", database_url=database_url, redis_url=f"{valkey.tcp_url}?cluster=true")
    assert (end.code, end.err) == (1, "")
    assert f"{AWAY} as a cluster: {REMEDY}" in end.out
    valkey.stop()
    end = await call("doctor", database_url=database_url, redis_url=valkey.tcp_url)
    assert (end.code, end.err) == (1, "")
    assert f"{AWAY} (ConnectionError): {REMEDY}" in end.out


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["ACL", "SETUSER", "default", "-@scripting"], "User default has no permissions to run the 'eval' command"),
        (["ACL", "SETUSER", "default", "-info"], "User default has no permissions to run the 'info"),
        (["ACL", "SETUSER", "default", "resetkeys", "~app:*"], "No permissions to access a key"),
        (["REPLICAOF", "127.0.0.1", "1"], "You can't write against a read only replica."),
    ],
    ids=["scripts", "INFO", "keys", "writes"],
)
async def test_what_it_refuses(valkey: OwnValkey, database_url: str, command: list[str], reason: str) -> None:
    """A server that answers but refuses what the service sends is a fault."""
    valkey.ask(*command)
    end = await call("doctor", database_url=database_url, redis_url=valkey.url)
    assert (end.code, end.err) == (1, "")
    assert f"FAULT Redis\n      - refuses what the service sends ({reason}" in end.out, end
    assert "it must be a primary with memory left, and its user needs all keys" in end.out


async def test_a_user_of_its_own(valkey: OwnValkey, database_url: str) -> None:
    """The rights that the documentation asks for are enough."""
    page = DEPLOYMENT.read_text(encoding="utf-8")
    rights = re.search(r"A user of its\s+own needs `([^`]*)`", page)
    assert rights is not None
    valkey.ask("ACL", "SETUSER", "tallystick", "on", ">secret", *rights[1].split())
    url = valkey.tcp_url.replace("://", "://tallystick:secret@")
    end = await call("doctor", database_url=database_url, redis_url=url)
    assert "ok    Redis\n" in end.out, end
    valkey.ask("ACL", "LOG", "RESET")
    async with in_process(database_url, url) as service:
        client = await service.client("books")
        await client.open("world", floor=None)
        await client.open("alice")
        key = new_key()
        answers = [await client.transfer("world", "alice", 5, key) for _ in range(2)]
        assert [answer.replayed for answer in answers] == [False, True]
        assert await client.balance("alice") == 5
        assert (await Client(client.session, client.url, "tsk_unknown").get("/v1/limits")).status == 401
    assert valkey.ask("ACL", "LOG") == []


async def test_a_cluster(folder: Path, database_url: str) -> None:
    """A cluster is fine while each of its servers answers, and fails when one or all do not."""
    cluster = OwnCluster(folder)
    await cluster.start()
    try:
        end = await run("doctor", database_url=database_url, redis_url=cluster.url)
        assert "ok    Redis\n" in end.out, end
        end = await call("doctor", database_url=database_url, redis_url=cluster.url.partition("?")[0])
        assert "FAULT Redis\n      - is a server of a cluster: add ?cluster=true to TALLYSTICK_REDIS_URL\n" in end.out
        cluster.nodes[1].stop()
        end = await run("doctor", database_url=database_url, redis_url=cluster.url)
        assert (end.code, end.err) == (1, "")
        assert AWAY in end.out
    finally:
        cluster.stop()
    end = await run("doctor", database_url=database_url, redis_url=cluster.url)
    assert (end.code, end.err) == (1, "")
    assert f"{AWAY} as a cluster: {REMEDY}" in end.out
