"""One server of a cluster that is slow holds up those who need it, and nobody else."""

import asyncio
from pathlib import Path

import pytest

from tests.support.service import BOUND_SECONDS, in_process
from tests.support.valkey_cluster import OwnCluster
from tests.support.waiting import until

ACCOUNTS = [f"account-{n}" for n in range(12)]
# Of the service with a server that does not answer: longer than all else that happens.
PATIENCE_MS = 10_000


async def test_reads_from_the_others_go_on(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While reads wait for the snapshots of one server, any number of reads of other snapshots are answered."""
    monkeypatch.setattr("server.store.redis_connections.QUARANTINE_SECONDS", 0.0)
    cluster = OwnCluster(folder)
    try:
        await cluster.start()
        async with in_process(database_url, cluster.url, redis_timeout_ms=PATIENCE_MS) as service:
            client = await service.client("slow")
            for account in ACCOUNTS:
                await client.open(account)

            async def stored() -> bool:
                for account in ACCOUNTS:
                    await client.account(account)
                return all(_holders(cluster, account) for account in ACCOUNTS)

            await until(stored)
            # Not the one that holds the buckets: for tokens everybody waits.
            slow = (_buckets(cluster) + 1) % 3
            theirs = [account for account in ACCOUNTS if slow in _holders(cluster, account)]
            others = [account for account in ACCOUNTS if account not in theirs]
            assert theirs
            assert others
            with cluster.nodes[slow].frozen():
                waiting = [asyncio.ensure_future(client.account(account)) for account in theirs * 3]
                for _ in range(10):
                    async with asyncio.timeout(BOUND_SECONDS):
                        await asyncio.gather(*map(client.account, others))
                assert not any(reading.done() for reading in waiting)
            assert {answer["id"] for answer in await asyncio.gather(*waiting)} == set(theirs)
    finally:
        cluster.stop()


def _buckets(cluster: OwnCluster) -> int:
    """Return the number of the server that holds the buckets of the one ledger, whose id begins each tag."""
    name = next(key for node in cluster.nodes for key in node.ask("KEYS", "*:s:*"))
    ledger = name.partition(b"{")[2].partition(b":")[0]
    return cluster.nodes.index(cluster.node_of(b"{%b}" % ledger))


def _holders(cluster: OwnCluster, account: str) -> list[int]:
    """Return the numbers of the servers that hold a snapshot of an account."""
    return [n for n, node in enumerate(cluster.nodes) if node.ask("KEYS", f"*:s:*:{account}}}")]
