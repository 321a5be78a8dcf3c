"""
The cache's protocol as a model small enough to search: one account, one key in Redis, writers, readers, accidents.

Every step below is one atomic step of the real thing: a commit in Postgres, a read of Postgres, or one Lua script. What
the scripts do is written again here, in Python; `test_scripts.py` holds each of them against the real one.
"""

from collections.abc import Iterator
from typing import NamedTuple

# What the key holds: nothing, ("S", version, 0), or ("L", token, least version that may be stored under it).
Value = tuple[str, int, int] | None


class Rules(NamedTuple):
    """The parts of the protocol; leaving any of them out must be found."""

    settle_after_commit: bool = True
    settle_on_replay: bool = True
    compare_token: bool = True
    remember_least: bool = True
    say_seen_when_busy: bool = True


ALL = Rules()


def seen(value: Value, version: int, rules: Rules = ALL) -> Value:
    """Do what `settle.lua` does to one snapshot."""
    if value is None:
        return None
    if value[0] == "L":
        if rules.remember_least and value[2] < version:
            return ("L", value[1], version)
        return value
    return None if value[1] < version else value


def look_up(value: Value, token: int) -> tuple[Value, str]:
    """Do what `gate.lua` and `read.lua` do for a snapshot: the value left behind, and `hit`, `lease` or `busy`."""
    if value is None:
        return ("L", token, 0), "lease"
    return value, "hit" if value[0] == "S" else "busy"


def fill(value: Value, token: int, version: int, rules: Rules = ALL) -> Value:
    """Do what `fill.lua` does."""
    if value is not None and value[0] == "L":
        mine = value[1] == token or not rules.compare_token
        if mine and value[2] <= version:
            return ("S", version, 0)
    return seen(value, version, rules)


class Writer(NamedTuple):
    """A caller that posts once, and again after a crash. Steps: commit, settle, acknowledged."""

    step: str = "new"
    version: int = 0


class Reader(NamedTuple):
    """A client that reads some times. `floor` is the least version its present read may show."""

    reads_left: int
    step: str = "idle"
    floor: int = 0
    version: int = 0
    shown: int = 0
    token: int = 0


class State(NamedTuple):
    """Everything there is."""

    value: Value
    committed: int
    acknowledged: int
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    accidents_left: int
    tokens: int


class Violation(Exception):
    """A client was shown something older than it may be."""


def start(writers: int, readers: int, reads: int, accidents: int) -> State:
    """Return the beginning: a snapshot of version 1, and everything still to come."""
    return State(("S", 1, 0), 1, 1, (Writer(),) * writers, (Reader(reads),) * readers, accidents, 0)


def steps(state: State, rules: Rules) -> Iterator[State]:
    """
    Return every state that one step leads to.

    Raises:
        Violation: A step shows a client something too old.
    """
    if state.accidents_left and state.value is not None:
        # Eviction, FLUSHALL, a restart, a snapshot or lease that expires: to the protocol they are the same.
        yield state._replace(value=None, accidents_left=state.accidents_left - 1)
    for number, writer in enumerate(state.writers):
        for change, after in _write(state, writer, rules):
            yield change._replace(writers=(*state.writers[:number], after, *state.writers[number + 1 :]))
    for number, reader in enumerate(state.readers):
        for change, reading in _read(state, reader, rules):
            yield change._replace(readers=(*state.readers[:number], reading, *state.readers[number + 1 :]))


def _write(state: State, writer: Writer, rules: Rules) -> Iterator[tuple[State, Writer]]:
    if writer.step == "new":
        version = state.committed + 1
        yield state._replace(committed=version), Writer("committed", version)
    elif writer.step == "committed":
        yield (
            state._replace(value=_settled(state, writer, rules.settle_after_commit, rules)),
            writer._replace(step="settled"),
        )
        # The worker dies with its answer; the caller sends the same key again.
        yield state, writer._replace(step="retries")
    elif writer.step == "retries":
        # The key is found bound: what it is answered is settled like a first answer.
        yield (
            state._replace(value=_settled(state, writer, rules.settle_on_replay, rules)),
            writer._replace(step="settled"),
        )
    elif writer.step == "settled":
        acknowledged = max(state.acknowledged, writer.version)
        yield state._replace(acknowledged=acknowledged), writer._replace(step="done")


def _settled(state: State, writer: Writer, is_done: bool, rules: Rules) -> Value:
    return seen(state.value, writer.version, rules) if is_done else state.value


def _read(state: State, reader: Reader, rules: Rules) -> Iterator[tuple[State, Reader]]:
    if reader.step == "idle" and reader.reads_left:
        yield state, reader._replace(step="asks", floor=max(state.acknowledged, reader.shown))
    elif reader.step == "asks":
        token = state.tokens + 1
        value, found = look_up(state.value, token)
        if found == "hit":
            assert value is not None
            yield state, _show(reader, value[1])
        else:
            changed = state._replace(value=value, tokens=token if found == "lease" else state.tokens)
            yield changed, reader._replace(step=found, token=token if found == "lease" else 0)
    elif reader.step in ("lease", "busy"):
        yield state, reader._replace(step=f"{reader.step} read", version=state.committed)
    elif reader.step == "lease read":
        value = fill(state.value, reader.token, reader.version, rules)
        yield state._replace(value=value), _show(reader, reader.version)
    elif reader.step == "busy read":
        value = seen(state.value, reader.version, rules) if rules.say_seen_when_busy else state.value
        yield state._replace(value=value), _show(reader, reader.version)


def _show(reader: Reader, version: int) -> Reader:
    if version < reader.floor:
        raise Violation(f"version {version} shown where {reader.floor} is due")
    return Reader(reader.reads_left - 1, shown=version)


def search(beginning: State, rules: Rules) -> int:
    """
    Visit every state that can be reached and return how many there are.

    Raises:
        Violation: One of them shows a client something too old.
    """
    visited = {beginning}
    open_states = [beginning]
    while open_states:
        for state in steps(open_states.pop(), rules):
            if state not in visited:
                visited.add(state)
                open_states.append(state)
    return len(visited)
