"""
The cache's protocol as a model small enough to search: one account, one key in Redis, workers, writers, readers.

Every step below is one atomic step of the real protocol: a commit in Postgres, a read of Postgres, one Lua script, or
an accident. The scripts are written again here, in Python; `test_scripts.py` compares each with the real one. Two
assumptions stand for time. A quarantine ends when every worker has noticed the restart before it. Before the next run
of Postgres begins, a worker has noticed that its connections were lost, though not what came after.

What a client is shown is an `Instant`: a run of Postgres and a version. One run follows another, whether the same
history goes on or an older copy was put back, so instants of later runs count as later.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.cache.scripts import ALL, Rules, Value, fill, invalidate, look_up

Instant = tuple[int, int]


class Writer(NamedTuple):
    """
    A caller that posts once, and again after a crash. Steps: commit, then invalidate and acknowledge.

    A delay before the acknowledgement is no step of its own: it would only allow readers to see less.
    """

    step: str = "new"
    instant: Instant = (0, 0)


class Reader(NamedTuple):
    """
    A client that reads several times. `floor` is the least version that its current read may show.

    A read begins with its look-up: an earlier beginning would only allow it to see less.
    """

    reads_left: int
    step: str = "idle"
    floor: Instant = (0, 0)
    instant: Instant = (0, 0)
    shown: Instant = (0, 0)
    token: int = 0
    # Redis' life in which the lease was taken.
    life: int = 0


# A writer whose request was answered.
DONE = Writer("done")


class Worker(NamedTuple):
    """
    A process of the service: whether it reaches Redis, the last life of Redis it has seen, the version whose
    invalidation is pending, and the last run of Postgres it has seen.
    """

    reaches: bool = True
    life: int = 0
    pending: int = 0
    run: int = 0


class Redis(NamedTuple):
    """
    The Redis server. `value` is what the key holds; `fresh` tells whether it was written in this life, `saved` is what
    an old backup brings back.
    """

    value: Value
    saved: Value
    up: bool = True
    life: int = 0
    young: bool = False
    fresh: bool = False


class State(NamedTuple):
    """
    The whole model. Writers and readers are distributed over the workers in turn; writers start at the first worker.
    """

    redis: Redis
    committed: int
    acknowledged: Instant
    workers: tuple[Worker, ...]
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    losses_left: int
    restarts_left: int
    cuts_left: int
    tokens: int
    # Runs of Postgres.
    run: int
    ends_left: int


class Violation(Exception):
    """A client was shown an older state than allowed, or one that is in no history that goes on."""


def start(
    writers: int,
    readers: int,
    reads: int,
    *,
    losses: int = 0,
    restarts: int = 0,
    workers: int = 1,
    cuts: int = 0,
    ends: int = 0,
) -> State:
    """
    Return the initial state: a snapshot of version 1 is in Redis, and nothing has happened yet.

    Args:
        losses: How often the key alone is lost.

        cuts: How often a worker is cut off from Redis, which goes on; others may then be shown what it could not
            remove.

        ends: How often Postgres starts a new run, with the same data or with a copy from the beginning.
    """
    redis = Redis(("S", 1, 0), ("S", 1, 0))
    callers = (Writer(),) * writers, (Reader(reads),) * readers
    return State(redis, 1, (0, 1), (Worker(),) * workers, *callers, losses, restarts, cuts, 0, 0, ends)


def steps(state: State, rules: Rules) -> Iterator[State]:
    """
    Return every state that one step leads to.

    Raises:
        Violation: A step shows a client a state that is too old.
    """
    if not any(reader.reads_left for reader in state.readers):
        # No read is left that could be wrong.
        return
    yield from _accidents(state, rules)
    count = len(state.workers)
    for number in range(count):
        yield from _worker(state, number)
    for number, writer in enumerate(state.writers):
        for change, written in _write(state, writer, number % count, rules):
            yield change._replace(writers=(*state.writers[:number], written, *state.writers[number + 1 :]))
    for number, reader in enumerate(state.readers):
        for change, reading in _read(state, reader, (number + 1) % count, rules):
            yield change._replace(readers=(*state.readers[:number], reading, *state.readers[number + 1 :]))


def _accidents(state: State, rules: Rules) -> Iterator[State]:
    redis = state.redis
    if state.ends_left:
        for committed in {1, state.committed}:
            yield state._replace(run=state.run + 1, ends_left=state.ends_left - 1, committed=committed)
    if not redis.up:
        for value in {None, redis.value, redis.saved}:
            # Redis comes back empty, with what it held when it died, or with an older backup.
            back = Redis(value, redis.saved, life=redis.life + 1, young=rules.quarantine)
            yield state._replace(redis=back)
        return
    if state.losses_left and redis.value is not None:
        # This covers eviction, FLUSHALL, and the expiry of a snapshot or lease, which the protocol cannot tell apart.
        yield state._replace(redis=redis._replace(value=None), losses_left=state.losses_left - 1)
    if state.restarts_left:
        cut = tuple(worker._replace(reaches=False) for worker in state.workers)
        yield state._replace(redis=redis._replace(up=False), workers=cut, restarts_left=state.restarts_left - 1)
    if redis.young and all(worker.reaches and worker.life == redis.life for worker in state.workers):
        # Snapshots live no longer than a quarantine lasts.
        value = redis.value if redis.fresh else None
        yield state._replace(redis=redis._replace(young=False, value=value))


def _worker(state: State, number: int) -> Iterator[State]:
    worker = state.workers[number]
    if not worker.reaches:
        if state.redis.up:
            yield _with_worker(state, number, worker._replace(reaches=True, life=state.redis.life))
    elif worker.pending:
        redis = state.redis._replace(value=invalidate(state.redis.value, worker.pending, worker.run))
        yield _with_worker(state._replace(redis=redis), number, worker._replace(pending=0))
    elif state.cuts_left:
        cut = worker._replace(reaches=False)
        yield _with_worker(state._replace(cuts_left=state.cuts_left - 1), number, cut)


def _with_worker(state: State, number: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:number], worker, *state.workers[number + 1 :]))


def _met(state: State, number: int) -> State:
    """Use Postgres through a worker: connections of an ended run are lost, and a new one shows the current run."""
    return _with_worker(state, number, state.workers[number]._replace(run=state.run))


def _write(state: State, writer: Writer, number: int, rules: Rules) -> Iterator[tuple[State, Writer]]:
    run, version = writer.instant
    if writer.step == "new":
        version = state.committed + 1
        yield _met(state._replace(committed=version), number), Writer("committed", (state.run, version))
    elif writer.step == "committed":
        yield _acknowledged(state, number, writer.instant, invalidates=rules.invalidate_after_commit, rules=rules), DONE
        # The worker dies before it answers; the caller sends the same key again.
        yield state, writer._replace(step="retries")
    elif writer.step == "retries":
        if state.run != run and state.committed < version:
            # The copy that was put back does not have the transfer.
            yield state, Writer()
            return
        # The key is bound, and a replay invalidates like a first answer.
        met, instant = _met(state, number), (state.run, version)
        yield _acknowledged(met, number, instant, invalidates=rules.invalidate_on_replay, rules=rules), DONE


def _acknowledged(state: State, number: int, instant: Instant, *, invalidates: bool, rules: Rules) -> State:
    """Answer a writer after older snapshots are removed."""
    told = _invalidated(state, number, instant[1], rules) if invalidates else state
    return told._replace(acknowledged=max(state.acknowledged, instant))


def _invalidated(state: State, number: int, version: int, rules: Rules) -> State:
    """Remove snapshots older than a version about to be shown; without Redis, the removal becomes pending."""
    worker = state.workers[number]
    if worker.reaches:
        value = invalidate(state.redis.value, version, worker.run, rules)
        return state._replace(redis=state.redis._replace(value=value))
    return _with_worker(state, number, worker._replace(pending=max(worker.pending, version)))


def _read(state: State, reader: Reader, number: int, rules: Rules) -> Iterator[tuple[State, Reader]]:
    if reader.step == "idle" and reader.reads_left:
        yield _look_up(state, reader._replace(floor=max(state.acknowledged, reader.shown)), number, rules)
    elif reader.step in ("lease", "busy"):
        yield _met(state, number), reader._replace(step=f"{reader.step} read", instant=(state.run, state.committed))
    elif reader.step == "lease read":
        yield _fill(state, reader, number, rules), _show(reader, reader.instant)
    elif reader.step == "busy read":
        told = _invalidated(state, number, reader.instant[1], rules) if rules.invalidate_when_busy else state
        yield told, _show(reader, reader.instant)


def _look_up(state: State, reader: Reader, number: int, rules: Rules) -> tuple[State, Reader]:
    worker, redis = state.workers[number], state.redis
    # A worker that asks who answers does not use a new server before it has met it.
    asks = worker.reaches if rules.ask_who_answers else redis.up
    if not asks or (rules.ask_who_answers and redis.young) or (rules.read_nothing_pending and worker.pending):
        return state, reader._replace(step="busy")
    token = state.tokens + 1
    value, found = look_up(redis.value, token)
    if found == "hit":
        assert value is not None
        _, version, run = value
        if rules.serve_only_this_run and run != worker.run:
            return state, reader._replace(step="busy")
        if run < worker.run:
            raise Violation("what an ended run has left is shown by a worker that knows the next one")
        if run == state.run and version > state.committed:
            raise Violation(f"version {version} shown where {state.committed} is committed")
        return state, _show(reader, (run, version))
    if found == "busy":
        return state, reader._replace(step="busy")
    leased = state._replace(redis=redis._replace(value=value, fresh=True), tokens=token)
    return leased, reader._replace(step="lease", token=token, life=redis.life)


def _fill(state: State, reader: Reader, number: int, rules: Rules) -> State:
    redis, worker = state.redis, state.workers[number]
    run, version = reader.instant
    here = worker.reaches if rules.ask_who_answers else redis.up
    ended = rules.fill_in_the_same_run and run != state.run
    if not here or ended or (rules.fill_in_the_same_life and (reader.life != redis.life)):
        return _invalidated(state, number, version, rules)
    value = fill(redis.value, reader.token, version, worker.run, rules)
    stored = value != redis.value and value is not None and value[0] == "S"
    return state._replace(redis=redis._replace(value=value, fresh=redis.fresh or stored))


def _show(reader: Reader, instant: Instant) -> Reader:
    if instant < reader.floor:
        raise Violation(f"run and version {instant} shown where {reader.floor} is due")
    return Reader(reader.reads_left - 1, shown=instant if reader.reads_left > 1 else (0, 0))


def search(beginning: State, rules: Rules = ALL) -> int:
    """
    Visit every reachable state and return their number; states that differ only in the order of callers count as one.

    Raises:
        Violation: A state shows a client something too old.
    """
    visited = {beginning}
    open_states = [beginning]
    while open_states:
        for step in steps(open_states.pop(), rules):
            state = _in_order(step)
            if state not in visited:
                visited.add(state)
                open_states.append(state)
    return len(visited)


def _in_order(state: State) -> State:
    """
    Return a state with the callers of each worker in sorted order.

    Their order changes nothing, so only one of the states that differ in it is visited.
    """
    count = len(state.workers)
    if len(state.writers) <= count and len(state.readers) <= count:
        return state
    writers, readers = list(state.writers), list(state.readers)
    for number in range(count):
        writers[number::count] = sorted(writers[number::count])
        readers[number::count] = sorted(readers[number::count])
    return state._replace(writers=tuple(writers), readers=tuple(readers))
