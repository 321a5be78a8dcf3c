"""Redis is killed and restarted; one process has noticed and another has not."""

from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.redis_proxy import redis_proxied
from tests.support.service import Service, in_process, make_key
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

LEDGER = "restarted"
QUARANTINE = "server.store.redis_connections.QUARANTINE_SECONDS"
# Longer than any test, so that it never ends.
ENDLESS_SECONDS = 3_600.0


@pytest.mark.parametrize("restored", [False, True], ids=["empty", "with old data"])
async def test_a_write_that_could_not_be_told(
    database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, restored: bool
) -> None:
    """
    One process acknowledges a write while it cannot reach a Redis that has just restarted and from which the other
    process had read the account. The other process's next read still shows the write.
    """
    # Until then the server is trusted at once.
    monkeypatch.setattr(QUARANTINE, 0.0)
    valkey = OwnValkey(folder)
    valkey.start()
    try:
        async with (
            redis_proxied(valkey.socket) as (proxy, port),
            in_process(database_url, f"redis://127.0.0.1:{port}") as cut,
            in_process(database_url, valkey.url) as other,
        ):
            token = await make_key(database_url, LEDGER)
            writer, reader = (Client(service.session, service.url, token) for service in (cut, other))
            await writer.fund("alice", 100)
            before = await reader.account("alice")
            await until(lambda: _read_out_of_redis(other, reader))
            monkeypatch.setattr(QUARANTINE, ENDLESS_SECONDS)
            proxy.refuse = True
            if restored:
                valkey.ask("SAVE")
            valkey.stop()
            valkey.start()
            assert bool(valkey.ask("KEYS", "*:s:*:alice")) is restored
            for _ in range(3):
                assert await reader.account("alice") == before
            posted = await writer.transfer("world", "alice", 1)
            assert posted.status == 201
            assert cut.app is not None
            assert cut.app.counters.pending > 0
            assert (await reader.account("alice"))["version"] == posted.json["destination_version"]
    finally:
        valkey.stop()


async def _read_out_of_redis(service: Service, client: Client) -> bool:
    assert service.app is not None
    hits = service.app.counters.hits
    await client.account("alice")
    return service.app.counters.hits > hits
