"""Everything that runs during chaos: two servers, one PostgreSQL, one Valkey, and proxies between them."""

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from loadtests.chaos.databases import PORT, Postgres, Valkey
from loadtests.chaos.plan import BOTH, POSTGRES, REDIS
from loadtests.chaos.proxy import Proxy, proxied
from loadtests.chaos.servers import Server, run_command
from loadtests.own_server import AUDIT_SECONDS_MAX, COMMAND_SECONDS_MAX, PLENTY, ServerError

SERVERS = 2
# Two, so that one key in two books is two transfers.
LEDGERS = ("main", "other")


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
        await self.postgres.make()
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
                self.violations.append(f"server {server.number} ended by itself with code {server.died}")
        await asyncio.gather(*(server.ready() for server in self.servers))

    async def audit(self) -> None:
        """Note what `tallystick audit` finds wrong with the books."""
        code, said = await run_command(
            self.postgres.url(self.postgres.socket.parent), "audit", seconds_max=AUDIT_SECONDS_MAX
        )
        if code != 0:
            self.violations.append(f"the audit ends with code {code}: {said}")

    async def stop(self) -> None:
        """Stop the servers in order; each says then what it has counted."""
        for server, code in zip(self.servers, await asyncio.gather(*(s.stop() for s in self.servers)), strict=True):
            if code != 0:
                self.violations.append(f"server {server.number}, asked to end while nothing was wrong, gave {code}")
        self.counts["account read out of Redis"] += sum(server.hits() for server in self.servers)

    async def _command(self, *arguments: str) -> str:
        code, said = await run_command(
            self.postgres.url(self.postgres.socket.parent), *arguments, seconds_max=COMMAND_SECONDS_MAX
        )
        if code != 0:
            raise ServerError(f"tallystick {arguments[0]} ended with code {code}: {said}")
        return said


@asynccontextmanager
async def running(logs: Path) -> AsyncIterator[Rig]:
    """Start everything with new data, the logs in a folder; end and remove it afterwards, whatever happens."""
    home, sockets = _make_home()
    postgres = Postgres(home / "p", logs / "postgres.log")
    valkey = Valkey(sockets, logs / "valkey.log")
    servers = [
        Server(
            number + 1,
            {
                "database_url": postgres.url(sockets / str(number)),
                "redis_url": f"unix://{sockets / str(number) / 'redis.sock'}",
            },
            logs / f"server-{number + 1}.log",
            home,
        )
        for number in range(SERVERS)
    ]
    rig = Rig(postgres, valkey, servers)
    try:
        async with AsyncExitStack() as stack:
            try:
                await rig.start(stack, sockets)
                yield rig
            finally:
                for server in servers:
                    await server.kill_all()
                await valkey.kill()
                with contextlib.suppress(ServerError):
                    await postgres.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _make_home() -> tuple[Path, Path]:
    """Make a folder for all data, and one inside for sockets, whose paths must be short."""
    home = Path(tempfile.mkdtemp(prefix="ts-chaos-"))
    sockets = home / "s"
    sockets.mkdir(mode=0o700)
    return home, sockets
