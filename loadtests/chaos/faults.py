"""Which kinds of faults there are, and how each is done and undone."""

import asyncio
import inspect
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from loadtests.chaos.proxy import Proxy
from loadtests.chaos.rig import BOTH, POSTGRES, REDIS, Rig
from loadtests.processes import Program, send
from loadtests.servers import Server

SERVER, CLIENTS = "server", "clients"
# Marks, behind the name of a part: both servers are kept from it, and are not any more.
AWAY, BACK = "away", "back"
# What a slow link adds to each piece, in each direction.
SLOW_SECONDS = 0.2
# Of the batches that a worker posts after its start, the one at which a failpoint acts, at most: it posts some fifteen
# a second, and the fault holds for one.
BATCHES_MAX = 10
# So little that a store of these sizes has to throw away accounts and answers all the time.
EVICTING_BYTES = "1600kb"
USUAL_BYTES = "256mb"
# What a lost answer becomes when its connection is healed: gone, or late; this share of them gone.
GONE_SHARE = 0.6
# What was cut is gone before anything flows again.
CUT_SECONDS = 0.02
END_SECONDS_MAX = 10.0
SESSIONS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
READ_ONLY = "ALTER SYSTEM SET default_transaction_read_only ="
RELOAD = "SELECT pg_reload_conf()"


class Fault(NamedTuple):
    """One fault: its kind, the server that it concerns (BOTH for all), and a number from 0 to 1 for its details."""

    kind: str
    target: int
    detail: float

    @property
    def label(self) -> str:
        """How it is shown."""
        where = "" if not KINDS[self.kind].each else " (all)" if self.target == BOTH else f" ({self.target + 1})"
        return f"{self.kind}{where}"


Injector = Callable[[Rig, Fault], AbstractAsyncContextManager[None]]
# What it returns is awaited where it can be.
Act = Callable[[Rig, Fault], object]


class Kind(NamedTuple):
    """
    What a kind of fault is.

    Attributes:
        part: What it happens to.

        hold: Least and most seconds that it lasts.

        injector: Does it, and undoes it afterwards.

        away: It keeps whoever it concerns from the part altogether.

        bounded: A Redis or a server goes on that has missed something, so that reads may be too old for as long as a
            snapshot lives (docs/decisions/0009); after all others, none may.

        needed: Without it a run cannot have seen all that it must.

        alone: Nothing else may be wrong meanwhile: it needs a server that becomes ready.

        each: It happens to one server, or between one server and a part; otherwise to all.
    """

    part: str
    hold: tuple[float, float]
    injector: Injector
    away: bool = False
    bounded: bool = False
    needed: bool = False
    each: bool = False
    alone: bool = False


@asynccontextmanager
async def injected(rig: Rig, fault: Fault, mark: Callable[[str], None]) -> AsyncIterator[None]:
    """Do a fault; undo it afterwards; mark in between when both servers are kept from a part."""
    kind = KINDS[fault.kind]
    away = kind.away and fault.target == BOTH
    async with kind.injector(rig, fault):
        if away:
            mark(f"{kind.part} {AWAY}")
        try:
            yield
        finally:
            if away:
                mark(f"{kind.part} {BACK}")


def _nothing(_rig: Rig, _fault: Fault) -> None:
    pass


def _between(do: Act, undo: Act = _nothing) -> Injector:
    async def act(what: Act, rig: Rig, fault: Fault) -> None:
        done = what(rig, fault)
        if inspect.isawaitable(done):
            await done

    @asynccontextmanager
    async def injector(rig: Rig, fault: Fault) -> AsyncIterator[None]:
        try:
            await act(do, rig, fault)
            yield
        finally:
            await act(undo, rig, fault)

    return injector


def _of_server(act: Callable[[Server], object]) -> Act:
    return lambda rig, fault: act(rig.servers[fault.target])


def _frozen(of: Callable[[Rig, Fault], Program]) -> Injector:
    return _between(
        lambda rig, fault: of(rig, fault).send_all(signal.SIGSTOP),
        lambda rig, fault: of(rig, fault).send_all(signal.SIGCONT),
    )


def _clogged(part: str, clog: Callable[[Proxy], object]) -> Injector:
    async def heal(rig: Rig, fault: Fault) -> None:
        for proxy in rig.proxies(part, fault.target):
            if fault.detail < GONE_SHARE:
                proxy.cut()
                await asyncio.sleep(CUT_SECONDS)
            proxy.heal()

    return _between(lambda rig, fault: [clog(proxy) for proxy in rig.proxies(part, fault.target)], heal)


def _asked(*commands: str) -> Act:
    """Return what sends Redis commands."""

    async def act(rig: Rig, _fault: Fault) -> None:
        for command in commands:
            await rig.databases.valkey.ask(*command.split())

    return act


def _told(*statements: str) -> Act:
    """Return what sends PostgreSQL statements."""

    async def act(rig: Rig, _fault: Fault) -> None:
        for statement in statements:
            await rig.databases.postgres.ask(statement)

    return act


def _twice(act: Act) -> Injector:
    return _between(act, act)


async def _stop_server(rig: Rig, fault: Fault) -> None:
    server = rig.servers[fault.target]
    code = await server.stop()
    if code != 0:
        rig.violations.append(f"server {server.name}, asked to end, gave {code}")


def _armed(point: str, count: str) -> Injector:
    """Return what starts a server anew that kills its worker at a failpoint; it counts whether that has happened."""

    @asynccontextmanager
    async def injector(rig: Rig, fault: Fault) -> AsyncIterator[None]:
        server = rig.servers[fault.target]
        await _stop_server(rig, fault)
        server.start(failpoints=f"{point}=kill@{1 + int(fault.detail * BATCHES_MAX)}")
        await server.ready_again()
        before = set(server.family())
        try:
            yield
        finally:
            # One that was killed has been followed by another.
            rig.counts[count] += not before <= set(server.family())
            await _stop_server(rig, fault)
            server.start()

    return injector


def _kill_one(fault: Fault, pids: list[int]) -> None:
    if pids:
        send(pids[int(fault.detail * len(pids))], signal.SIGKILL)


async def _kill_backend(rig: Rig, fault: Fault) -> None:
    rows = await rig.databases.postgres.ask(f"SELECT pid {SESSIONS} ORDER BY pid")
    _kill_one(fault, [row["pid"] for row in rows])


def _hang_up(value: bool) -> Act:
    return lambda rig, _: setattr(rig, "hang_up", value)


def _cut_off(proxy: Proxy) -> None:
    proxy.refuse = True
    proxy.cut()


def _slow(proxy: Proxy) -> None:
    proxy.delay_seconds = SLOW_SECONDS


def _start_postgres(rig: Rig, _fault: Fault) -> object:
    return rig.databases.postgres.start()


def _postgres_ended(number: signal.Signals) -> Injector:
    return _between(lambda rig, _: rig.databases.postgres.end(number, END_SECONDS_MAX), _start_postgres)


_START_SERVER = _of_server(Server.start)
_END_SESSIONS = _twice(_told(f"SELECT pg_terminate_backend(pid) {SESSIONS}"))
_COMMITTED = _armed("posting.committed", "server killed between commit and answer")
_COMMITTING = _armed("posting.sent", "server killed while a batch was on its way")
_WORKER_KILLED = _between(lambda rig, fault: _kill_one(fault, rig.servers[fault.target].family()[1:]))
_BACKEND_KILLED = _between(_kill_backend, _start_postgres)
_SWAPPED = _between(_of_server(lambda server: send(server.pid, signal.SIGHUP)))
_READ_ONLY = _between(_told(f"{READ_ONLY} on", RELOAD), _told(f"{READ_ONLY} off", RELOAD))
_REDIS_KILLED = _between(
    lambda rig, _: rig.databases.valkey.end(signal.SIGKILL, END_SECONDS_MAX),
    lambda rig, _: rig.databases.valkey.start(),
)
_EVICTS = _between(_asked(f"CONFIG SET maxmemory {EVICTING_BYTES}"), _asked(f"CONFIG SET maxmemory {USUAL_BYTES}"))
_NO_WRITES = _between(_asked("CONFIG SET min-replicas-to-write 1"), _asked("CONFIG SET min-replicas-to-write 0"))
_NO_MEMORY = _between(
    _asked("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"),
    _asked(f"CONFIG SET maxmemory {USUAL_BYTES}", "CONFIG SET maxmemory-policy volatile-lru"),
)
_SERVER_FROZEN = _frozen(lambda rig, fault: rig.servers[fault.target])
KINDS = {
    "server killed": Kind(SERVER, (0.1, 1.0), _between(_of_server(Server.kill), _START_SERVER), needed=True, each=True),
    "server stopped in order": Kind(SERVER, (0.1, 0.6), _between(_stop_server, _START_SERVER), each=True),
    "server killed after a commit": Kind(SERVER, (1.0, 2.0), _COMMITTED, needed=True, each=True, alone=True),
    "server killed while it commits": Kind(SERVER, (1.0, 2.0), _COMMITTING, each=True, alone=True),
    "worker killed": Kind(SERVER, (0.2, 1.0), _WORKER_KILLED, each=True),
    "workers swapped": Kind(SERVER, (1.0, 2.0), _SWAPPED, each=True),
    "postgres crashed": Kind(POSTGRES, (0.3, 1.5), _postgres_ended(signal.SIGQUIT), away=True, needed=True),
    "postgres killed": Kind(POSTGRES, (0.2, 1.0), _postgres_ended(signal.SIGKILL), away=True),
    "postgres backend killed": Kind(POSTGRES, (0.5, 1.0), _BACKEND_KILLED),
    "postgres frozen": Kind(POSTGRES, (0.5, 3.5), _frozen(lambda rig, _: rig.databases.postgres), away=True),
    "postgres sessions ended": Kind(POSTGRES, (0.3, 1.5), _END_SESSIONS),
    "postgres read-only": Kind(POSTGRES, (0.5, 2.0), _READ_ONLY),
    "postgres cut off": Kind(POSTGRES, (0.5, 2.0), _clogged(POSTGRES, _cut_off), away=True, needed=True, each=True),
    "postgres replies lost": Kind(
        POSTGRES, (0.5, 3.0), _clogged(POSTGRES, Proxy.hold_replies), away=True, needed=True, each=True
    ),
    # Longer than a posting is tried: the service has to say that it does not know.
    "postgres silent": Kind(POSTGRES, (6.0, 7.5), _clogged(POSTGRES, Proxy.hold), away=True, needed=True, each=True),
    "postgres slow": Kind(POSTGRES, (1.0, 2.0), _clogged(POSTGRES, _slow), each=True),
    "redis killed": Kind(REDIS, (0.3, 1.5), _REDIS_KILLED, away=True, needed=True),
    "redis flushed": Kind(REDIS, (0.5, 1.0), _twice(_asked("FLUSHALL"))),
    "redis scripts flushed": Kind(REDIS, (0.3, 0.6), _twice(_asked("SCRIPT FLUSH"))),
    "redis evicts": Kind(REDIS, (0.8, 2.0), _EVICTS),
    "clients hang up": Kind(CLIENTS, (1.0, 2.0), _between(_hang_up(True), _hang_up(False)), needed=True),
    "server frozen": Kind(SERVER, (0.2, 7.0), _SERVER_FROZEN, bounded=True, each=True),
    "redis frozen": Kind(
        REDIS, (0.5, 3.0), _frozen(lambda rig, _: rig.databases.valkey), away=True, bounded=True, needed=True
    ),
    "redis cut off": Kind(REDIS, (0.5, 2.0), _clogged(REDIS, _cut_off), away=True, bounded=True, each=True),
    "redis replies lost": Kind(
        REDIS, (0.5, 2.5), _clogged(REDIS, Proxy.hold_replies), away=True, bounded=True, each=True
    ),
    "redis slow": Kind(REDIS, (1.0, 2.0), _clogged(REDIS, _slow), bounded=True, each=True),
    "redis refuses writes": Kind(REDIS, (0.8, 2.0), _NO_WRITES, away=True, bounded=True),
    "redis out of memory": Kind(REDIS, (0.8, 2.0), _NO_MEMORY, bounded=True),
}
