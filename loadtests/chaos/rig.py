"""Everything that runs during chaos: two servers, a PostgreSQL, a Valkey, proxies between them, and brokers."""

import asyncio
import base64
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.brokers import Broker, Kafka, RabbitMQ
from loadtests.chaos.proxy import Proxy
from loadtests.client import Client
from loadtests.databases import Databases
from loadtests.processes import Program
from loadtests.servers import Server, tallystick

# Names of the parts.
SERVER, POSTGRES, REDIS, CLIENTS = "server", "postgres", "redis", "clients"
# The part that sends to brokers, and the brokers.
SINKS, KAFKA, RABBITMQ = "sinks", Kafka.kind, RabbitMQ.kind
BROKERS = (Kafka, RabbitMQ)
SERVERS = 2
# The target of a fault that affects all servers.
BOTH = SERVERS
# Workers of each server: enough to kill one while the other serves.
WORKERS = 2
# Connections to PostgreSQL of each of the two pools of a worker.
POOL = 4
# Two, so that one key used in two ledgers makes two transfers.
LEDGERS = ("main", "other")
SETTINGS = {
    # With the usual 50 ms, a busy machine would look like a Redis that is down.
    "redis_timeout_ms": "1000",
    "workers": str(WORKERS),
    "admin_port": "0",
    # The receiver of webhooks listens there.
    "webhook_private_networks": "127.0.0.0/8",
    "posting_connections": str(POOL),
    "reading_connections": str(POOL),
}
# Connections of all clients to one server in one ledger: each client has its own, and a storm uses several.
CONNECTIONS_MAX = 1_000
# The line that a server logs at its end about its reads from Redis.
_HITS = re.compile(r"cache: hits=(\d+)")


@dataclass
class Rig:
    """
    Holds what runs, and the state of the faults.

    `proxies`: by part and server. `brokers`: by kind. `keys`: API keys by ledger. `callers`: how clients reach each
    server in each ledger. `answered`: by client, when the last request with a good answer was sent. `hang_up`: whether
    clients end connections before they are answered. `counts`: events that must happen at times. `violations`: what
    must not happen, where it is not the checks that see it.
    """

    databases: Databases
    servers: list[Server]
    proxies: Mapping[tuple[str, int], Proxy]
    brokers: Mapping[str, Broker]
    keys: dict[str, str] = field(default_factory=dict)
    callers: dict[str, list[Client]] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    hang_up: bool = False
    stopped: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    async def start(self) -> None:
        await tallystick("migrate", settings=self.servers[0].settings)
        self.keys = {ledger: await self.servers[0].create_key(ledger) for ledger in LEDGERS}
        for server in self.servers:
            await server.start()
        await self.ready()

    def program(self, part: str, target: int) -> Program:
        parts: dict[str, Program] = {POSTGRES: self.databases.postgres, REDIS: self.databases.valkey, **self.brokers}
        return parts[part] if part in parts else self.servers[target]

    async def ask(self, part: str, command: str) -> None:
        if part == POSTGRES:
            await self.databases.postgres.ask(command)
        else:
            await self.databases.valkey.ask(*command.split())

    def links(self, part: str, target: int) -> list[Proxy]:
        return [self.proxies[part, number] for number in range(SERVERS) if target in (number, BOTH)]

    async def ready(self) -> None:
        """Return when both servers are ready; one that ended while it started is started again."""
        for server in self.servers:
            if server.died is not None:
                self.violations.append(f"server {server.name} ended by itself with code {server.died}")
        await asyncio.gather(*(server.ready(again=True) for server in self.servers))

    async def audit(self) -> None:
        done = await self.servers[0].audit()
        if done.code != 0:
            self.violations.append(f"the audit ends with code {done.code}: {done.last_lines}")

    async def stop(self) -> None:
        """Stop the servers in an orderly way; add up the reads from Redis that each logs at its end."""
        for server, code in zip(self.servers, await asyncio.gather(*(s.stop() for s in self.servers)), strict=True):
            if code != 0:
                self.violations.append(f"server {server.name}, asked to end while nothing was wrong, gave {code}")
            hits = _HITS.findall(server.log.read_text(encoding="utf-8", errors="replace"))
            self.counts["account read out of Redis"] += sum(map(int, hits))


@asynccontextmanager
async def running(logs: Path, kinds: Collection[str]) -> AsyncIterator[Rig]:
    """
    Start everything with new data, and brokers of the given kinds; end and remove it afterwards in any case. The logs
    stay in a folder.
    """
    # The clients of brokers log each failure to reach a broker.
    for library in ("aiokafka", "aio_pika", "aiormq"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    async with AsyncExitStack() as stack:
        # The paths of unix sockets must be short.
        home = Path(stack.enter_context(TemporaryDirectory(prefix="ts-chaos-", ignore_cleanup_errors=True)))
        databases = Databases(home / "d")
        webhook_key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        servers: list[Server] = []
        proxies = {}
        for number in range(SERVERS):
            sockets = home / str(number)
            sockets.mkdir(mode=0o700)
            for link, target in ((POSTGRES, databases.postgres.socket), (REDIS, databases.valkey.socket)):
                proxies[link, number] = Proxy(target)
                await stack.enter_async_context(proxies[link, number].at(sockets / target.name))
            settings = {
                **SETTINGS,
                "webhook_key": webhook_key,
                "database_url": databases.postgres.url(folder=sockets),
                "redis_url": f"unix://{sockets / databases.valkey.socket.name}",
            }
            name = str(number + 1)
            servers.append(Server(name, settings, logs / f"server-{name}.log", home))
        brokers = {
            each.kind: each(home / each.kind, logs / f"{each.kind}.log") for each in BROKERS if each.kind in kinds
        }
        stack.callback(shutil.copytree, databases.logs, logs / "databases", dirs_exist_ok=True)
        for part in (databases, *brokers.values(), *servers):
            stack.push_async_callback(part.close)
        await databases.start()
        await databases.postgres.make(databases.postgres.DATABASE)
        await asyncio.gather(*(broker.start() for broker in brokers.values()))
        rig = Rig(databases, servers, proxies, brokers)
        await rig.start()
        for ledger, key in rig.keys.items():
            callers = [Client(server.url, key, CONNECTIONS_MAX) for server in servers]
            rig.callers[ledger] = [await stack.enter_async_context(caller) for caller in callers]
        yield rig
