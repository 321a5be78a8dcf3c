"""Defines the kinds of faults, and how each is injected and undone."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

from loadtests.chaos.rig import BOTH, CLIENTS, KAFKA, POSTGRES, RABBITMQ, REDIS, SERVER, SINKS, Rig
from loadtests.processes import answers, family, send
from loadtests.servers import BACKGROUND

# Marks, after the name of a part: both servers are cut off from it, and no longer are.
AWAY, BACK = "away", "back"
# A failpoint acts at the latest at this batch after the start of a worker, which posts some fifteen a second.
BATCHES_MAX = 10
# So little memory that a store of these sizes evicts accounts and answers all the time.
EVICTING = "CONFIG SET maxmemory 1600kb"
USUAL = "CONFIG SET maxmemory 256mb"

# When a connection is healed, an answer that was held back is dropped or delivered late; this share is dropped.
GONE_SHARE = 0.6
# Delay that a slow link adds to each piece, in each direction.
SLOW_SECONDS = 0.2
# Pause after a cut, so that the connections are closed before data flows again.
CUT_SECONDS = 0.02
END_SECONDS_MAX = 10.0
# Limit for an armed worker to post its batch, or for the armed background process to lead while the other is killed.
REACHED_SECONDS_MAX = 8.0
# Prefix of the names of the workers' failpoints; all others are of the background process.
OF_WORKERS = "posting."
SESSIONS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
END_SESSIONS = f"SELECT pg_terminate_backend(pid) {SESSIONS}"
READ_ONLY = "ALTER SYSTEM SET default_transaction_read_only ="
RELOAD = "SELECT pg_reload_conf()"


class Fault(NamedTuple):
    """One fault: its kind, the server that it affects (BOTH for all), and a number from 0 to 1 for its details."""

    kind: str
    target: int
    detail: float

    @property
    def label(self) -> str:
        where = "" if not KINDS[self.kind].each else " (all)" if self.target == BOTH else f" ({self.target + 1})"
        return f"{self.kind}{where}"


# Commands for a database, in order; a signal to all processes of the part; or any other action.
Deed = tuple[str, ...] | signal.Signals | Callable[[Rig, Fault], Awaitable[None]]


class Kind(NamedTuple):
    """
    Describes a kind of fault.

    `part`: what it happens to. `hold`: least and most seconds that it lasts. `away`: it cuts the affected servers off
    from the part completely. `bounded`: a Redis or a server that has missed something goes on, so that reads may be
    stale for as long as a snapshot lives (docs/decisions/0009); after other faults no read may be. `needed`: a run must
    have had it to see all that it has to see. `alone`: no other fault may overlap it, because it needs a server that
    becomes ready. `each`: it affects one server, or the link between one server and a part; other faults affect all.
    `slow`: it takes long to heal.
    """

    part: str
    hold: tuple[float, float]
    do: Deed
    undo: Deed = ()
    away: bool = False
    bounded: bool = False
    needed: bool = False
    each: bool = False
    alone: bool = False
    slow: bool = False


@asynccontextmanager
async def injected(rig: Rig, fault: Fault, mark: Callable[[str], None]) -> AsyncIterator[None]:
    """Inject a fault and undo it afterwards; mark the time in which both servers are cut off from a part."""
    kind = KINDS[fault.kind]
    try:
        await _act(rig, fault, kind.do)
        if kind.away and fault.target == BOTH:
            mark(f"{kind.part} {AWAY}")
        yield
    finally:
        if kind.away and fault.target == BOTH:
            mark(f"{kind.part} {BACK}")
        await _act(rig, fault, kind.undo)


async def _act(rig: Rig, fault: Fault, deed: Deed) -> None:
    part = KINDS[fault.kind].part
    if isinstance(deed, signal.Signals):
        rig.program(part, fault.target).send_all(deed)
    elif isinstance(deed, tuple):
        for command in deed:
            await rig.ask(part, command)
    else:
        await deed(rig, fault)


async def _clog(rig: Rig, fault: Fault, **how: Any) -> None:
    for proxy in rig.links(KINDS[fault.kind].part, fault.target):
        proxy.clog(**how)


async def _heal(rig: Rig, fault: Fault) -> None:
    for proxy in rig.links(KINDS[fault.kind].part, fault.target):
        if fault.detail < GONE_SHARE:
            proxy.cut_all()
            await asyncio.sleep(CUT_SECONDS)
        proxy.heal()


async def _end(number: signal.Signals, rig: Rig, fault: Fault) -> None:
    await rig.program(KINDS[fault.kind].part, fault.target).end(number, END_SECONDS_MAX)


async def _start(rig: Rig, fault: Fault) -> None:
    await rig.program(KINDS[fault.kind].part, fault.target).start()


async def _stop_server(rig: Rig, fault: Fault) -> None:
    server = rig.servers[fault.target]
    code = await server.stop()
    if code != 0:
        rig.violations.append(f"server {server.name}, asked to end, gave {code}")


async def _reach(point: str, action: str, rig: Rig, fault: Fault) -> None:
    """
    Restart a server with a failpoint; return when the failpoint was reached, or after REACHED_SECONDS_MAX.

    Failpoints of the background process are reached by the process that leads, so the other server's is killed until
    then.
    """
    server = rig.servers[fault.target]
    await _stop_server(rig, fault)
    told = server.log.stat().st_size
    await server.start(failpoints=f"{point}={action}@{1 + int(fault.detail * BATCHES_MAX)}")
    await server.ready(again=True)

    async def reached() -> bool:
        if not point.startswith(OF_WORKERS):
            await _kill_background(rig, fault._replace(target=1 - fault.target))
        return f"reached the failpoint {point}".encode() in server.log.read_bytes()[told:]

    rig.counts[f"{fault.kind}, at {point}"] += await answers(reached, REACHED_SECONDS_MAX)


async def _crash_at(points: tuple[str, ...], rig: Rig, fault: Fault) -> None:
    """Crash PostgreSQL while the background process stands at a failpoint."""
    point = points[int(fault.detail * len(points))]
    await _reach(point, "stall", rig, fault)
    await rig.databases.postgres.end(signal.SIGQUIT, END_SECONDS_MAX)


async def _renew(rig: Rig, fault: Fault) -> None:
    await _stop_server(rig, fault)
    await _start(rig, fault)


async def _start_both(rig: Rig, fault: Fault) -> None:
    await rig.databases.postgres.start()
    await _renew(rig, fault)


async def _kill_worker(rig: Rig, fault: Fault) -> None:
    if workers := family(rig.servers[fault.target].pid)[1:]:
        send(workers[int(fault.detail * len(workers))], signal.SIGKILL)


async def _kill_background(rig: Rig, fault: Fault) -> None:
    if pid := rig.servers[fault.target].process(BACKGROUND):
        send(pid, signal.SIGKILL)


async def _kill_backend(rig: Rig, fault: Fault) -> None:
    if rows := await rig.databases.postgres.ask(f"SELECT pid {SESSIONS} ORDER BY pid"):
        send(rows[int(fault.detail * len(rows))]["pid"], signal.SIGKILL)


async def _swap_workers(rig: Rig, fault: Fault) -> None:
    send(rig.servers[fault.target].pid, signal.SIGHUP)


async def _hang_up(rig: Rig, _fault: Fault) -> None:
    rig.hang_up = not rig.hang_up


_CUT, _SLOW = partial(_clog, refuse=True), partial(_clog, requests=True, replies=True, delay_seconds=SLOW_SECONDS)
_LOSE, _SILENCE = partial(_clog, requests=True), _clog
_RELAY_STANDS = partial(_crash_at, ("relay.before", "relay.committed"))
_SINK_STANDS = partial(_crash_at, ("sinks.before_batch", "sinks.confirmed", "sinks.stored"))
_CRASH, _KILL = partial(_end, signal.SIGQUIT), partial(_end, signal.SIGKILL)
_FREEZE, _THAW = signal.SIGSTOP, signal.SIGCONT
_FULL = ("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1")
_NOT_FULL = (USUAL, "CONFIG SET maxmemory-policy volatile-lru")
_REPLICAS = "CONFIG SET min-replicas-to-write"


def _killed_at(point: str, part: str, hold: tuple[float, float], *, needed: bool = False) -> Kind:
    return Kind(part, hold, partial(_reach, point, "kill"), _renew, needed=needed, each=True, alone=True)


KINDS = {
    "server killed": Kind(SERVER, (0.1, 1.0), _KILL, _start, needed=True, each=True),
    "server stopped in order": Kind(SERVER, (0.1, 0.6), _stop_server, _start, each=True),
    "server killed after a commit": _killed_at("posting.committed", SERVER, (1.0, 2.0), needed=True),
    "server killed while it commits": _killed_at("posting.sent", SERVER, (1.0, 2.0)),
    "background process killed": Kind(SERVER, (0.2, 1.0), _kill_background, each=True),
    "relay killed after it commits": _killed_at("relay.committed", SERVER, (2.0, 3.0), needed=True),
    "relay killed before it commits": _killed_at("relay.before", SERVER, (2.0, 3.0)),
    "postgres crashed while the relay stands": Kind(
        SERVER, (0.5, 1.5), _RELAY_STANDS, _start_both, each=True, alone=True
    ),
    "postgres crashed while a sink stands": Kind(SINKS, (0.5, 1.5), _SINK_STANDS, _start_both, each=True, alone=True),
    "publisher killed before it sends": _killed_at("sinks.before_batch", SINKS, (2.0, 3.0)),
    "publisher killed after a confirmation": _killed_at("sinks.confirmed", SINKS, (2.0, 3.0), needed=True),
    "publisher killed after its position": _killed_at("sinks.stored", SINKS, (2.0, 3.0)),
    "kafka killed": Kind(KAFKA, (0.5, 2.0), _KILL, _start, needed=True, slow=True),
    "kafka frozen": Kind(KAFKA, (1.0, 5.0), _FREEZE, _THAW),
    "rabbitmq killed": Kind(RABBITMQ, (0.5, 2.0), _KILL, _start, needed=True, slow=True),
    "rabbitmq frozen": Kind(RABBITMQ, (1.0, 5.0), _FREEZE, _THAW),
    "worker killed": Kind(SERVER, (0.2, 1.0), _kill_worker, each=True),
    "workers swapped": Kind(SERVER, (1.0, 2.0), _swap_workers, each=True),
    "postgres crashed": Kind(POSTGRES, (0.3, 1.5), _CRASH, _start, away=True, needed=True),
    "postgres killed": Kind(POSTGRES, (0.2, 1.0), _KILL, _start, away=True),
    "postgres backend killed": Kind(POSTGRES, (0.5, 1.0), _kill_backend, _start),
    "postgres frozen": Kind(POSTGRES, (0.5, 3.5), _FREEZE, _THAW, away=True),
    "postgres sessions ended": Kind(POSTGRES, (0.3, 1.5), (END_SESSIONS,), (END_SESSIONS,)),
    "postgres read-only": Kind(POSTGRES, (0.5, 2.0), (f"{READ_ONLY} on", RELOAD), (f"{READ_ONLY} off", RELOAD)),
    "postgres cut off": Kind(POSTGRES, (0.5, 2.0), _CUT, _heal, away=True, needed=True, each=True),
    "postgres replies lost": Kind(POSTGRES, (0.5, 3.0), _LOSE, _heal, away=True, needed=True, each=True),
    # Longer than the service tries to post: it has to say that the outcome is unknown.
    "postgres silent": Kind(POSTGRES, (6.0, 7.5), _SILENCE, _heal, away=True, needed=True, each=True),
    "postgres slow": Kind(POSTGRES, (1.0, 2.0), _SLOW, _heal, each=True),
    "redis killed": Kind(REDIS, (0.3, 1.5), _KILL, _start, away=True, needed=True),
    "redis flushed": Kind(REDIS, (0.5, 1.0), ("FLUSHALL",), ("FLUSHALL",)),
    "redis scripts flushed": Kind(REDIS, (0.3, 0.6), ("SCRIPT FLUSH",), ("SCRIPT FLUSH",)),
    "redis evicts": Kind(REDIS, (0.8, 2.0), (EVICTING,), (USUAL,)),
    "clients hang up": Kind(CLIENTS, (1.0, 2.0), _hang_up, _hang_up, needed=True),
    "server frozen": Kind(SERVER, (0.2, 7.0), _FREEZE, _THAW, bounded=True, each=True),
    "redis frozen": Kind(REDIS, (0.5, 3.0), _FREEZE, _THAW, away=True, bounded=True, needed=True),
    "redis cut off": Kind(REDIS, (0.5, 2.0), _CUT, _heal, away=True, bounded=True, each=True),
    "redis replies lost": Kind(REDIS, (0.5, 2.5), _LOSE, _heal, away=True, bounded=True, each=True),
    "redis slow": Kind(REDIS, (1.0, 2.0), _SLOW, _heal, bounded=True, each=True),
    "redis refuses writes": Kind(REDIS, (0.8, 2.0), (f"{_REPLICAS} 1",), (f"{_REPLICAS} 0",), away=True, bounded=True),
    "redis out of memory": Kind(REDIS, (0.8, 2.0), _FULL, _NOT_FULL, bounded=True),
}
