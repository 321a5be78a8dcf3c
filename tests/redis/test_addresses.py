"""Unix sockets, TCP, TLS and passwords work, and no password is shown."""

import asyncio
import logging
import ssl
import subprocess
from pathlib import Path

import pytest

from server.store import redis
from server.store.redis import RedisAwayError, RedisServer
from server.store.redis_cluster import ClusterClient
from server.store.redis_cluster import connect as connect_any
from tests.redis.conftest import Connect
from tests.support.redis_proxy import redis_proxied
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

PASSWORD = "s3cret-in-the-address"


@pytest.fixture
def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    paths = folder / "server.crt", folder / "server.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", *made, *subject, "-out", paths[0], "-keyout", paths[1]],
        check=True,
        capture_output=True,
    )
    return paths


async def test_socket_and_tcp(valkey: OwnValkey, connect: Connect) -> None:
    """The unix socket and the TCP address lead to the same server."""
    assert await connect(valkey.url).submit(b"", ("SET", "key", "by socket")) == b"OK"
    assert await connect(valkey.tcp_url).submit(b"", ("GET", "key")) == b"by socket"
    assert await connect(f"{valkey.tcp_url}/3").submit(b"", ("GET", "key")) is None


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long timeouts, because a busy machine is slow at handshakes, which these tests do not time."""
    monkeypatch.setattr(redis, "FLUSH_SECONDS", 5.0)
    monkeypatch.setattr(redis, "CONNECT_SECONDS", 5.0)


async def test_tls(valkey: OwnValkey, connect: Connect, certificate: tuple[Path, Path]) -> None:
    """TLS works with a trusted certificate and with no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with redis_proxied(valkey.socket, secure=context) as (proxy, port):
        trusting = connect(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate[0]}")
        replies = await asyncio.gather(*(trusting.submit(b"", ("ECHO", b"%d" % n)) for n in range(500)))
        assert replies == [b"%d" % n for n in range(500)]
        carried = len(proxy.pieces)
        distrusting = connect(f"rediss://127.0.0.1:{port}")
        with pytest.raises(RedisAwayError):
            await distrusting.submit(b"", ("PING",))
        assert len(proxy.pieces) == carried
        await trusting.close()
        await distrusting.close()


async def test_passwords(folder: Path, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """The right password works, and a wrong one counts as away; neither appears in an error or log."""
    caplog.set_level(logging.DEBUG)
    valkey = OwnValkey(folder, requirepass=PASSWORD)
    valkey.start()
    said = []
    try:
        right = connect(f"redis://:{PASSWORD}@127.0.0.1:{valkey.port}/0")
        assert await right.submit(b"", ("PING",)) == b"PONG"
        by_socket = connect(f"unix://:{PASSWORD}@{valkey.socket}")
        assert await by_socket.submit(b"", ("PING",)) == b"PONG"
        wrong = connect(f"redis://:{PASSWORD}-not@127.0.0.1:{valkey.port}/0")
        without = connect(valkey.url)
        while not (wrong.away and without.away):
            for client in (wrong, without):
                with pytest.raises(RedisAwayError) as error:
                    await client.submit(b"", ("PING",))
                said.append(f"{error.value!r} {error.value.__cause__!r}")
    finally:
        valkey.stop()
    while not right.away:
        with pytest.raises(RedisAwayError) as error:
            await right.submit(b"", ("PING",))
        said.append(f"{error.value!r} {error.value.__cause__!r}")
    await until(lambda: caplog.text.count("does not answer") >= 2)
    assert len(said) >= 9
    idle = [repr(link.connection) for client in (right, wrong) for link in client._connections._idle]
    assert PASSWORD not in " ".join([*said, caplog.text, repr(right), *idle])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("?colour=blue", id="unknown"),
        pytest.param("?socket_keepalive_options=1&health_check_interval=often", id="not a number"),
        pytest.param("?cluster=true&colour=blue", id="of a cluster: unknown"),
        pytest.param("?cluster=true&health_check_interval=often", id="of a cluster: not a number"),
        pytest.param("/3?cluster=true", id="of a cluster: a database with a number"),
    ],
)
def test_options_that_there_are_not(options: str) -> None:
    """
    An unknown option of a connection is refused when the client is made, and the error does not show the password.
    """
    with pytest.raises((TypeError, ValueError)) as error:
        connect_any(f"redis://:{PASSWORD}@127.0.0.1:6379{options}")
    assert PASSWORD not in str(error.value)


async def test_the_address_says_whether_it_is_a_cluster() -> None:
    """`cluster=true` selects the cluster client, and is not passed on as an option of a connection."""
    single, cluster = connect_any("redis://127.0.0.1:1"), connect_any("redis://127.0.0.1:1?cluster=true")
    assert (type(single), type(cluster)) == (RedisServer, ClusterClient)
    await single.close()
    await cluster.close()
