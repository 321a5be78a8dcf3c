"""
The connections of a worker to one Redis or Valkey server, and how its restarts are noticed.

The time between two restarts of the server is an epoch. A server that was just started is in quarantine: no snapshots
are read from it or stored there (docs/decisions/0011).
"""

import asyncio
import logging
import math
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from server.store.keyspace import SNAPSHOT_MS
from server.store.redis_link import ConfusedError, Link

# Seconds that a server must have been up before snapshots are read from it: the lifetime of a snapshot. By then every
# worker has noticed the restart, and snapshots that the server loaded from a disk or another server have expired.
QUARANTINE_SECONDS = SNAPSHOT_MS / 1_000
# Seconds by which the reported uptime may be too long: it is the difference of two instants in whole seconds.
UPTIME_ERROR_SECONDS = 1

log = logging.getLogger(__name__)


class Connections:
    """
    The connections to one server.

    Each new connection first asks for the server's run id. A changed run id means that the server was restarted, or
    that another server answers at its address.

    Args:
        name: Name of the server, for the log.

        url: redis://, rediss:// or unix://.

        place: Host and port to use instead of those in the address.

        connect_seconds: Seconds in which a connection must be made.

        took_over: Whether the server has taken over the slots of another one, and so counts as just started.

    Attributes:
        epoch: Number of restarts that were noticed. A command that was submitted in one epoch is not sent in another.

    Raises:
        ValueError, TypeError: The address has an unknown option.
    """

    def __init__(
        self, name: str, url: str, place: tuple[str, int] | None, connect_seconds: float, *, took_over: bool
    ) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        if place is not None:
            options["host"], options["port"] = place
        self.epoch = 0
        self._name = name
        self._took_over = took_over
        self._connection_class: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = {
            **options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            # A pipeline has one deadline of ours. A timeout for each reply would cost as much as all the rest.
            "socket_timeout": None,
            "socket_connect_timeout": connect_seconds,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        # Created now, but not connected, so that a wrong option is found now.
        self._idle = [Link(self._connection_class(**self._options))]
        self._run_id = b""
        self._quarantine_is_over = False
        # End of the quarantine, in the loop's time; None until the first connection was opened.
        self._quarantine_until: float | None = None

    @property
    def serves_snapshots(self) -> bool:
        """Whether snapshots may be read from the server and stored there."""
        if not self._quarantine_is_over and self._quarantine_until is not None:
            self._quarantine_is_over = asyncio.get_running_loop().time() >= self._quarantine_until
        return self._quarantine_is_over

    async def take(self) -> Link:
        """Return an unused connection; if its `epoch` is None, the caller must `open` it."""
        while self._idle:
            link = self._idle.pop()
            # Otherwise the server has closed the connection, or has sent something unexpected.
            if link.usable:
                return link
            await link.close()
        return Link(self._connection_class(**self._options))

    async def open(self, link: Link, deadline: float) -> None:
        """
        Connect, and find out whether the server was restarted.

        Args:
            deadline: When the server must have answered, in the loop's time.

        Raises:
            RedisError, OSError, ValueError: The connection failed, or the server cannot be used now.
        """
        await link.connect()
        (reply,) = await link.exchange([("INFO", "server")], deadline)
        await self._note_run(*_identity(reply))
        link.epoch = self.epoch

    async def give_back(self, link: Link) -> None:
        """Keep a connection for the next use; all its replies have been read."""
        if link.epoch == self.epoch:
            self._idle.append(link)
        else:
            await link.close()

    async def drop(self, link: Link) -> None:
        """Close a connection that has failed, and the idle ones: most likely they have failed too."""
        await link.abort()
        await self.close()

    async def close(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for link in idle:
            await link.close()

    async def _note_run(self, run_id: bytes, uptime: int) -> None:
        """Record the server's run id, and its uptime in seconds; a changed run id begins a new epoch."""
        first = self._quarantine_until is None
        if not first and run_id == self._run_id:
            return
        # The uptime of a server that took over proves nothing: it has long been up as a replica.
        age = max(uptime - UPTIME_ERROR_SECONDS, 0) if first and not self._took_over else 0
        self._run_id = run_id
        self._quarantine_is_over = False
        self._quarantine_until = asyncio.get_running_loop().time() + QUARANTINE_SECONDS - age
        if not run_id:
            # A restart would not be noticed.
            self._quarantine_until = math.inf
            log.warning("%s does not tell its run id (INFO server): no accounts are read from it", self._name)
        if not first:
            self.epoch += 1
            log.warning("%s was restarted: no accounts are read from it for a while", self._name)
            await self.close()


def _identity(reply: object) -> tuple[bytes, int]:
    """
    Return the run id of a server, empty if it does not report one, and the seconds since its start.

    Raises:
        ResponseError: The server cannot be used now.

        ConfusedError: The reply belongs to another command.
    """
    if isinstance(reply, ResponseError):
        # The user may not run INFO, or it was renamed. Every other error is one of the server.
        if isinstance(reply, NoPermissionError) or "unknown command" in str(reply).lower():
            return b"", 0
        raise reply
    if not isinstance(reply, bytes):
        raise ConfusedError
    facts = dict(line.split(b":", 1) for line in reply.splitlines() if b":" in line)
    uptime = facts.get(b"uptime_in_seconds", b"")
    return facts.get(b"run_id", b""), int(uptime) if uptime.isdigit() else 0
