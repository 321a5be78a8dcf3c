"""`tallystick doctor` and Redis: one server, a cluster, and what stands for neither."""

from pathlib import Path

from tests.support.command import call, run
from tests.support.valkey import OwnValkey
from tests.support.valkey_cluster import OwnCluster

AWAY = "FAULT Redis\n      - cannot be reached"
REMEDY = "check TALLYSTICK_REDIS_URL"


async def test_one_server(valkey: OwnValkey, database_url: str) -> None:
    """It is well by either of its addresses, and at fault as a cluster, which it is not."""
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
    """It is well when each of its servers answers, and at fault when one does not, or none."""
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
