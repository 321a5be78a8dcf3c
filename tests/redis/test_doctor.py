"""`tallystick doctor` checks a single Redis, a cluster, and an address that fits neither."""

from pathlib import Path

from tests.support.command import call, run
from tests.support.valkey import OwnValkey
from tests.support.valkey_cluster import OwnCluster

AWAY = "FAULT Redis\n      - cannot be reached"
REMEDY = "check TALLYSTICK_REDIS_URL"


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


async def test_a_cluster(folder: Path, database_url: str) -> None:
    """A cluster is fine while each of its servers answers, and fails when one or all do not."""
    cluster = OwnCluster(folder)
    await cluster.start()
    try:
        end = await run("doctor", database_url=database_url, redis_url=cluster.url)
        assert "ok    Redis\n" in end.out, end
        cluster.nodes[1].stop()
        end = await run("doctor", database_url=database_url, redis_url=cluster.url)
        assert (end.code, end.err) == (1, "")
        assert AWAY in end.out
    finally:
        cluster.stop()
    end = await run("doctor", database_url=database_url, redis_url=cluster.url)
    assert (end.code, end.err) == (1, "")
    assert f"{AWAY} as a cluster: {REMEDY}" in end.out
