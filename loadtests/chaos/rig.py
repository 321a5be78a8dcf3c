"""Everything that runs during chaos: two servers, one PostgreSQL, one Valkey, and proxies between them."""

import asyncio
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from loadtests.chaos.plan import BOTH, POSTGRES, REDIS
from loadtests.chaos.proxy import Proxy, proxied
from loadtests.databases import PORT, Postgres, Valkey
from loadtests.processes import ServerError
from loadtests.servers import AUDIT_SECONDS_MAX, PLENTY, Server, tallystick

SERVERS = 2
# Of each server: enough to kill one and be served by the other.
WORKERS = 2
# Connections to PostgreSQL of each of the two pools of a worker.
POOL = 4
# Two, so that one key in two books is two transfers.
LEDGERS = ("main", "other")
DATABASE = "tallystick"
SETTINGS = {
    # A machine that is busy is not a Redis that is away: the usual 50 ms would tell of the machine only.
    "redis_timeout_ms": "1000",
    "workers": str(WORKERS),
    "admin_port": "0",
    "posting_connections": str(POOL),
    "reading_connections": str(POOL),
}
# Durable like the real one; small, because it shares a machine with everything else.
POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "lc_messages": "C",
    "log_min_error_statement": "panic",
}
# What the service's own embedded Valkey has; the memory is large enough that nothing is evicted unless that is wanted.
VALKEY_SETTINGS = {
    "save": "",
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "volatile-lru",
    "loglevel": "notice",
}
# What a server says at its end of what it has read out of Redis.
_HITS = re.compile(r"cache: hits=(\d+)")


class Rig:
    """
    What runs, and what is being done to it.

    Attributes:
        urls: Where the clients reach the servers.

        keys: API keys by ledger.

        away: By part, the faults under way that keep both servers from it.

        hang_up: Whether clients end connections before they are answered.

        counts: What happened that must happen at times.

        violations: What must not happen and was seen by others than the checks of the history.
    """

    def __init__(self, postgres: Postgres, valkey: Valkey, servers: list[Server]) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.servers = servers
        self.urls = [server.url for server in servers]
        self.keys: dict[str, str] = {}
        self.away: Counter[str] = Counter()
        self.hang_up = False
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._proxies: dict[tuple[str, int], Proxy] = {}

    async def start(self, stack: AsyncExitStack, sockets: Path) -> None:
        """Start all parts; the proxies end with the stack."""
        await self.postgres.make(DATABASE)
        await self.valkey.start()
        for number in range(SERVERS):
            (sockets / str(number)).mkdir()
            for part, target, name in (
                (POSTGRES, self.postgres.socket, f".s.PGSQL.{PORT}"),
                (REDIS, self.valkey.socket, "redis.sock"),
            ):
                place = proxied(target, sockets / str(number) / name)
                self._proxies[part, number] = await stack.enter_async_context(place)
        await self._command("migrate")
        for ledger in LEDGERS:
            self.keys[ledger] = await self._command("keys", "create", "--ledger", ledger, "--role", "admin", *PLENTY)
        for server in self.servers:
            server.start()
        await self.ready()

    def proxies(self, part: str, target: int) -> list[Proxy]:
        """Return the proxies between a server, or both, and a part."""
        return [self._proxies[part, number] for number in range(SERVERS) if target in (number, BOTH)]

    async def ready(self) -> None:
        """
        Return when both servers are ready, started again where they ended at their start.

        Raises:
            ServerError: One is not, in time.
        """
        for server in self.servers:
            if server.died is not None:
                self.violations.append(f"server {server.name} ended by itself with code {server.died}")
        await asyncio.gather(*(server.ready_again() for server in self.servers))

    async def audit(self) -> None:
        """Note what `tallystick audit` finds wrong with the books."""
        done = await tallystick("audit", settings=self._past_proxies, seconds_max=AUDIT_SECONDS_MAX)
        if done.code != 0:
            self.violations.append(f"the audit ends with code {done.code}: {done.last_lines}")

    async def stop(self) -> None:
        """Stop the servers in order; each says then what it has counted."""
        for server, code in zip(self.servers, await asyncio.gather(*(s.stop() for s in self.servers)), strict=True):
            if code != 0:
                self.violations.append(f"server {server.name}, asked to end while nothing was wrong, gave {code}")
            hits = _HITS.findall(server.log.read_text(encoding="utf-8", errors="replace"))
            self.counts["account read out of Redis"] += sum(map(int, hits))

    @property
    def _past_proxies(self) -> dict[str, str]:
        # No command here needs a Redis.
        return {"database_url": self.postgres.url(DATABASE), "redis_url": "redis://127.0.0.1:1"}

    async def _command(self, *arguments: str) -> str:
        done = await tallystick(*arguments, settings=self._past_proxies)
        if done.code != 0:
            raise ServerError(f"tallystick {arguments[0]} ended with code {done.code}: {done.last_lines}")
        return done.output.strip()


@asynccontextmanager
async def running(logs: Path) -> AsyncIterator[Rig]:
    """Start everything with new data, the logs in a folder; end and remove it afterwards, whatever happens."""
    # The paths of sockets must be short.
    home = Path(tempfile.mkdtemp(prefix="ts-chaos-"))
    sockets = home / "s"
    sockets.mkdir(mode=0o700)
    try:
        postgres = Postgres(home / "p", logs / "postgres.log", POSTGRES_SETTINGS)
        valkey = Valkey(home / "v", logs / "valkey.log", VALKEY_SETTINGS)
        servers = [
            Server(
                str(number + 1),
                {
                    **SETTINGS,
                    "database_url": postgres.url(DATABASE, sockets / str(number)),
                    "redis_url": f"unix://{sockets / str(number) / 'redis.sock'}",
                },
                logs / f"server-{number + 1}.log",
                home,
            )
            for number in range(SERVERS)
        ]
        rig = Rig(postgres, valkey, servers)
        async with AsyncExitStack() as stack:
            try:
                await rig.start(stack, sockets)
                yield rig
            finally:
                for server in servers:
                    await server.kill_all()
                await valkey.close()
                await postgres.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
