"""Limits requests without a good key by their network address."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from server.gate.limit_memory import LimitMemory, now
from server.gate.limits import Limit, LocalBuckets
from server.store.keyspace import Keyspace
from server.store.redis import Redis, RedisAwayError
from server.store.scripts import script

# Leading bits of an IPv6 address that distinguish the customers of a provider: a customer with one address of such a
# network has all of them.
IPV6_NETWORK_BITS: Final = 64


def network(address: str) -> str:
    """Return the network by which *address* is limited: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        peer: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        # A Unix socket has no address: all its callers share one limit.
        return "local"
    if isinstance(peer, IPv6Address):
        if peer.ipv4_mapped is None:
            return f"{IPv6Address(int(peer) >> (128 - IPV6_NETWORK_BITS) << (128 - IPV6_NETWORK_BITS))}/64"
        peer = peer.ipv4_mapped
    return str(peer)


class AddressLimit:
    """
    Limits requests of one kind by network address: exactly and across all workers, unless Redis is away.

    Args:
        limit: The limit of each network address.

        workers: Processes that share the limit; each admits its share alone when Redis is away.

        family: The name of these buckets in Redis; requests of another kind have another family.
    """

    def __init__(
        self, redis: Redis, keyspace: Keyspace, limit: Limit, workers: int, family: str = "authentication"
    ) -> None:
        self._redis = redis
        self._keyspace = keyspace
        self._limit = limit
        self._workers = workers
        self._family = family
        self._local = LocalBuckets()
        # By network.
        self._exhausted: LimitMemory[str] = LimitMemory()

    async def count(self, address: str) -> int:
        """
        Count a request.

        Returns:
            0 if the request is within the limit; otherwise microseconds until one would be.
        """
        peer = network(address)
        if taken := self._exhausted.taken(peer):
            return taken.wait
        asked = now()
        wait = (await self._take(peer, 1))[0]
        if wait:
            self._exhausted.remember(peer, asked, wait)
        return wait

    def remembered(self, address: str) -> int:
        """
        Return the remembered wait for the next request, without asking Redis.

        Returns:
            Microseconds until a request is within the limit; 0 if that is not known.
        """
        taken = self._exhausted.taken(network(address))
        return 0 if taken is None else taken.wait

    async def peek(self, address: str) -> int:
        """
        Return whether a request would be within the limit, without counting one if it is.

        Returns:
            0 if it would be; otherwise microseconds until one is.
        """
        peer = network(address)
        if taken := self._exhausted.taken(peer):
            return taken.wait
        _, left = await self._take(peer, 0)
        # Only `count` returns the wait. With no token left it takes none.
        return 0 if left else await self.count(address)

    async def _take(self, peer: str, cost: int) -> tuple[int, int]:
        """Take *cost* tokens; return the wait for them (0 if taken), and how many whole tokens are left."""
        if not self._redis.away and self._keyspace.known:
            names = self._keyspace.addresses(self._family)
            command = script("address").call(names, peer, *self._limit.bucket(), cost)
            try:
                reply = await self._redis.submit(names[0], command)
                return int(reply[0]), int(reply[1])
            except RedisAwayError:
                pass
        taken = self._local.take(0, [(peer, self._limit)], self._workers, cost)
        return taken.wait, taken.left
