"""How each kind of fault is done and undone."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from loadtests.chaos.plan import BOTH, KINDS, POSTGRES, REDIS, Fault
from loadtests.chaos.rig import DATABASE, Rig
from loadtests.processes import send

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


async def _nothing(_rig: Rig, _fault: Fault) -> None:
    """Undo what undoes itself."""


async def _kill_server(rig: Rig, fault: Fault) -> None:
    await rig.servers[fault.target].kill()


async def _start_server(rig: Rig, fault: Fault) -> None:
    rig.servers[fault.target].start()


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


async def _kill_worker(rig: Rig, fault: Fault) -> None:
    workers = rig.servers[fault.target].family()[1:]
    if workers:
        send(workers[int(fault.detail * len(workers))], signal.SIGKILL)


async def _swap_workers(rig: Rig, fault: Fault) -> None:
    rig.servers[fault.target].send(signal.SIGHUP)


def _server_signal(number: signal.Signals) -> Act:
    async def act(rig: Rig, fault: Fault) -> None:
        rig.servers[fault.target].send_all(number)

    return act


def _postgres_end(number: signal.Signals) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        await rig.postgres.end(number)

    return act


async def _postgres_start(rig: Rig, _fault: Fault) -> None:
    await rig.postgres.start()


async def _postgres_kill_backend(rig: Rig, fault: Fault) -> None:
    pids = [row["pid"] for row in await rig.postgres.ask(DATABASE, f"SELECT pid {SESSIONS} ORDER BY pid")]
    if pids:
        send(pids[int(fault.detail * len(pids))], signal.SIGKILL)


def _postgres_signal(number: signal.Signals) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        rig.postgres.send_all(number)

    return act


async def _postgres_end_sessions(rig: Rig, _fault: Fault) -> None:
    await rig.postgres.ask(DATABASE, f"SELECT pg_terminate_backend(pid) {SESSIONS}")


def _postgres_read_only(value: str) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        await rig.postgres.ask(DATABASE, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await rig.postgres.ask(DATABASE, "SELECT pg_reload_conf()")

    return act


async def _redis_kill(rig: Rig, _fault: Fault) -> None:
    await rig.valkey.end(signal.SIGKILL)


async def _redis_start(rig: Rig, _fault: Fault) -> None:
    await rig.valkey.start()


def _redis_ask(*command: str) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        await rig.valkey.ask(*command)

    return act


def _redis_set(**settings: str) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        await rig.valkey.configure(**settings)

    return act


def _redis_signal(number: signal.Signals) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        rig.valkey.send_all(number)

    return act


def _hang_up(value: bool) -> Act:
    async def act(rig: Rig, _fault: Fault) -> None:
        rig.hang_up = value

    return act


def _cut_off(part: str) -> Act:
    async def act(rig: Rig, fault: Fault) -> None:
        for proxy in rig.proxies(part, fault.target):
            proxy.refuse = True
            proxy.cut()

    return act


def _silence(part: str, *, requests: bool) -> Act:
    async def act(rig: Rig, fault: Fault) -> None:
        for proxy in rig.proxies(part, fault.target):
            proxy.silence(requests=requests, replies=True)

    return act


def _slow(part: str) -> Act:
    async def act(rig: Rig, fault: Fault) -> None:
        for proxy in rig.proxies(part, fault.target):
            proxy.delay_seconds = SLOW_SECONDS

    return act


def _heal(part: str) -> Act:
    async def act(rig: Rig, fault: Fault) -> None:
        for proxy in rig.proxies(part, fault.target):
            if fault.detail < GONE_SHARE:
                proxy.cut()
                await asyncio.sleep(CUT_SECONDS)
            proxy.heal()

    return act


_INJECTORS: dict[str, Injector] = {
    "server killed": _between(_kill_server, _start_server),
    "server stopped in order": _between(_stop_server, _start_server),
    "server killed after a commit": _armed("posting.committed", "server killed between commit and answer"),
    "server killed while it commits": _armed("posting.sent", "server killed while a batch was on its way"),
    "server frozen": _between(_server_signal(signal.SIGSTOP), _server_signal(signal.SIGCONT)),
    "worker killed": _between(_kill_worker, _nothing),
    "workers swapped": _between(_swap_workers, _nothing),
    "postgres crashed": _between(_postgres_end(signal.SIGQUIT), _postgres_start),
    "postgres killed": _between(_postgres_end(signal.SIGKILL), _postgres_start),
    "postgres backend killed": _between(_postgres_kill_backend, _postgres_start),
    "postgres frozen": _between(_postgres_signal(signal.SIGSTOP), _postgres_signal(signal.SIGCONT)),
    "postgres sessions ended": _between(_postgres_end_sessions, _postgres_end_sessions),
    "postgres read-only": _between(_postgres_read_only("on"), _postgres_read_only("off")),
    "postgres cut off": _between(_cut_off(POSTGRES), _heal(POSTGRES)),
    "postgres replies lost": _between(_silence(POSTGRES, requests=False), _heal(POSTGRES)),
    "postgres silent": _between(_silence(POSTGRES, requests=True), _heal(POSTGRES)),
    "postgres slow": _between(_slow(POSTGRES), _heal(POSTGRES)),
    "redis killed": _between(_redis_kill, _redis_start),
    "redis flushed": _between(_redis_ask("FLUSHALL"), _redis_ask("FLUSHALL")),
    "redis scripts flushed": _between(_redis_ask("SCRIPT", "FLUSH"), _redis_ask("SCRIPT", "FLUSH")),
    "redis evicts": _between(_redis_set(maxmemory=EVICTING_BYTES), _redis_set(maxmemory=USUAL_BYTES)),
    "redis frozen": _between(_redis_signal(signal.SIGSTOP), _redis_signal(signal.SIGCONT)),
    "redis cut off": _between(_cut_off(REDIS), _heal(REDIS)),
    "redis replies lost": _between(_silence(REDIS, requests=False), _heal(REDIS)),
    "redis slow": _between(_slow(REDIS), _heal(REDIS)),
    "redis refuses writes": _between(_redis_set(min_replicas_to_write="1"), _redis_set(min_replicas_to_write="0")),
    "redis out of memory": _between(
        _redis_set(maxmemory_policy="noeviction", maxmemory="1"),
        _redis_set(maxmemory=USUAL_BYTES, maxmemory_policy="volatile-lru"),
    ),
    "clients hang up": _between(_hang_up(True), _hang_up(False)),
}
assert _INJECTORS.keys() == KINDS.keys(), "every kind can be done"
