"""A Redis Cluster of Valkey servers, which commands form and change."""

import asyncio
from pathlib import Path

from redis import RedisError
from redis.crc import key_slot

from loadtests.processes import free_port
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

SLOTS = 16_384


class OwnCluster:
    """
    A cluster of three primaries, and optionally a replica of the first or a primary without slots.

    Args:
        folder: The folder for their sockets, logs and topologies.

        replica: Whether the first primary has a replica.

        spare: Whether there is a primary without slots.
    """

    def __init__(self, folder: Path, *, replica: bool = False, spare: bool = False) -> None:
        self._replica = replica
        self.nodes: list[OwnValkey] = []
        for number in range(4 if replica or spare else 3):
            place = folder / str(number)
            place.mkdir()
            self.nodes.append(
                OwnValkey(
                    place,
                    cluster_enabled="yes",
                    cluster_port=str(free_port()),
                    cluster_node_timeout="1000",
                    cluster_require_full_coverage="no",
                    cluster_replica_validity_factor="0",
                    repl_diskless_sync_delay="0",
                )
            )

    @property
    def url(self) -> str:
        """The address of the cluster: that of one of its servers."""
        return f"{self.nodes[0].tcp_url}?cluster=true"

    async def start(self) -> None:
        """Start the servers, divide the slots among them, and wait until all agree."""
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.nodes[:3]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].cluster_port)
        await until(lambda: all(self._agrees(node) for node in self.nodes))
        for node in self.nodes[3:] if self._replica else ():
            node.ask("CLUSTER", "REPLICATE", self.id_of(self.nodes[0]))
            await until(lambda node=node: node.ask("INFO", "replication").get("master_link_status") == "up")

    def stop(self) -> None:
        """End all servers."""
        for node in self.nodes:
            node.stop()

    def id_of(self, node: OwnValkey) -> str:
        """Return the id of a server in the cluster."""
        name = node.ask("CLUSTER", "MYID")
        return name.decode() if isinstance(name, bytes) else str(name)

    def node_of(self, key: bytes) -> OwnValkey:
        """Return the primary that had a key's slot at the start."""
        slot = key_slot(key)
        return next(node for number, node in enumerate(self.nodes) if slot < (number + 1) * SLOTS // 3)

    def begin_move(self, slot: int, source: OwnValkey, target: OwnValkey) -> None:
        """Begin to move a slot: existing keys stay at the source, and new keys go to the target."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    async def end_move(self, slot: int, source: OwnValkey, target: OwnValkey) -> None:
        """Move the slot's keys and tell all servers."""
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1_000):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        for node in (target, source, *self.nodes[:3]):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))
        await asyncio.sleep(0)

    def _agrees(self, node: OwnValkey) -> bool:
        try:
            facts = node.ask("CLUSTER", "INFO")
        except (RedisError, OSError):
            return False
        return b"cluster_state:ok" in facts and b"cluster_known_nodes:%d\r" % len(self.nodes) in facts
