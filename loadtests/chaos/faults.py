"""How each kind of fault is done and undone."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from loadtests.chaos.plan import BOTH, KINDS, POSTGRES, REDIS, Fault
from loadtests.chaos.proxy import Proxy
from loadtests.chaos.rig import DATABASE, Rig
from loadtests.processes import send
from loadtests.servers import Server

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
# Faults that keep whoever they concern from a part altogether.
AWAY = {
    *("postgres crashed", "postgres killed", "postgres frozen"),
    *("postgres cut off", "postgres replies lost", "postgres silent"),
    *("redis killed", "redis frozen", "redis cut off", "redis replies lost", "redis refuses writes"),
}
SESSIONS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@asynccontextmanager
async def injected(rig: Rig, fault: Fault) -> AsyncIterator[None]:
    """Do a fault; undo it afterwards."""
    part = KINDS[fault.kind].part
    away = fault.kind in AWAY and fault.target == BOTH
    async with _INJECTORS[fault.kind](rig, fault):
        rig.away[part] += away
        try:
            yield
        finally:
            rig.away[part] -= away


Injector = Callable[[Rig, Fault], AbstractAsyncContextManager[None]]
Act = Callable[[Rig, Fault], Awaitable[object]]


def _between(do: Act, undo: Act) -> Injector:
    @asynccontextmanager
    async def injector(rig: Rig, fault: Fault) -> AsyncIterator[None]:
        try:
            await do(rig, fault)
            yield
        finally:
            await undo(rig, fault)

    return injector


def _at_once(act: Callable[[Rig, Fault], object]) -> Act:
    async def do(rig: Rig, fault: Fault) -> None:
        act(rig, fault)

    return do


def _server(act: Callable[[Server], object]) -> Act:
    return _at_once(lambda rig, fault: act(rig.servers[fault.target]))


def _links(part: str, act: Callable[[Proxy], object]) -> Act:
    async def do(rig: Rig, fault: Fault) -> None:
        for proxy in rig.proxies(part, fault.target):
            act(proxy)

    return do


def _heal(part: str) -> Act:
    async def act(rig: Rig, fault: Fault) -> None:
        for proxy in rig.proxies(part, fault.target):
            if fault.detail < GONE_SHARE:
                proxy.cut()
                await asyncio.sleep(CUT_SECONDS)
            proxy.heal()

    return act


def _clogged(part: str, clog: Callable[[Proxy], object]) -> Injector:
    return _between(_links(part, clog), _heal(part))


def _asked(*commands: str) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        for command in commands:
            await rig.valkey.ask(*command.split())

    return act


def _told(*statements: str) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        for statement in statements:
            await rig.postgres.ask(DATABASE, statement)

    return act


def _frozen(send_all: Callable[[Rig, Fault], Callable[[signal.Signals], None]]) -> Injector:
    stop = _at_once(lambda rig, fault: send_all(rig, fault)(signal.SIGSTOP))
    return _between(stop, _at_once(lambda rig, fault: send_all(rig, fault)(signal.SIGCONT)))


async def _stop_server(rig: Rig, fault: Fault) -> None:
    server = rig.servers[fault.target]
    code = await server.stop()
    if code != 0:
        rig.violations.append(f"server {server.name}, asked to end, gave {code}")


def _armed(point: str, count: str) -> Injector:
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
    _kill_one(fault, [row["pid"] for row in await rig.postgres.ask(DATABASE, f"SELECT pid {SESSIONS} ORDER BY pid")])


def _hang_up(value: bool) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        rig.hang_up = value

    return act


def _cut_off(proxy: Proxy) -> None:
    proxy.refuse = True
    proxy.cut()


def _slow(proxy: Proxy) -> None:
    proxy.delay_seconds = SLOW_SECONDS


def _lose_replies(proxy: Proxy) -> None:
    proxy.silence(replies=True)


def _silence(proxy: Proxy) -> None:
    proxy.silence(requests=True, replies=True)


_NOTHING = _at_once(lambda _rig, _fault: None)
_START_SERVER = _server(Server.start)
_END_SESSIONS = _told(f"SELECT pg_terminate_backend(pid) {SESSIONS}")
_READ_ONLY = "ALTER SYSTEM SET default_transaction_read_only ="
_RELOAD = "SELECT pg_reload_conf()"


def _start_postgres(rig: Rig, _fault: Fault) -> Awaitable[None]:
    return rig.postgres.start()


def _postgres_ended(number: signal.Signals) -> Injector:
    return _between(lambda rig, _: rig.postgres.end(number), _start_postgres)


_INJECTORS: dict[str, Injector] = {
    "server killed": _between(lambda rig, fault: rig.servers[fault.target].kill(), _START_SERVER),
    "server stopped in order": _between(_stop_server, _START_SERVER),
    "server killed after a commit": _armed("posting.committed", "server killed between commit and answer"),
    "server killed while it commits": _armed("posting.sent", "server killed while a batch was on its way"),
    "server frozen": _frozen(lambda rig, fault: rig.servers[fault.target].send_all),
    "worker killed": _between(
        _at_once(lambda rig, fault: _kill_one(fault, rig.servers[fault.target].family()[1:])), _NOTHING
    ),
    "workers swapped": _between(_server(lambda server: server.send(signal.SIGHUP)), _NOTHING),
    "postgres crashed": _postgres_ended(signal.SIGQUIT),
    "postgres killed": _postgres_ended(signal.SIGKILL),
    "postgres backend killed": _between(_kill_backend, _start_postgres),
    "postgres frozen": _frozen(lambda rig, _: rig.postgres.send_all),
    "postgres sessions ended": _between(_END_SESSIONS, _END_SESSIONS),
    "postgres read-only": _between(_told(f"{_READ_ONLY} on", _RELOAD), _told(f"{_READ_ONLY} off", _RELOAD)),
    "postgres cut off": _clogged(POSTGRES, _cut_off),
    "postgres replies lost": _clogged(POSTGRES, _lose_replies),
    "postgres silent": _clogged(POSTGRES, _silence),
    "postgres slow": _clogged(POSTGRES, _slow),
    "redis killed": _between(lambda rig, _: rig.valkey.end(signal.SIGKILL), lambda rig, _: rig.valkey.start()),
    "redis flushed": _between(_asked("FLUSHALL"), _asked("FLUSHALL")),
    "redis scripts flushed": _between(_asked("SCRIPT FLUSH"), _asked("SCRIPT FLUSH")),
    "redis evicts": _between(
        _asked(f"CONFIG SET maxmemory {EVICTING_BYTES}"), _asked(f"CONFIG SET maxmemory {USUAL_BYTES}")
    ),
    "redis frozen": _frozen(lambda rig, _: rig.valkey.send_all),
    "redis cut off": _clogged(REDIS, _cut_off),
    "redis replies lost": _clogged(REDIS, _lose_replies),
    "redis slow": _clogged(REDIS, _slow),
    "redis refuses writes": _between(
        _asked("CONFIG SET min-replicas-to-write 1"), _asked("CONFIG SET min-replicas-to-write 0")
    ),
    "redis out of memory": _between(
        _asked("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"),
        _asked(f"CONFIG SET maxmemory {USUAL_BYTES}", "CONFIG SET maxmemory-policy volatile-lru"),
    ),
    "clients hang up": _between(_hang_up(True), _hang_up(False)),
}
assert _INJECTORS.keys() == KINDS.keys(), "every kind can be done"
