"""What the Lua scripts do to a snapshot's key, written again; `test_scripts.py` compares."""

from typing import NamedTuple

# What the key holds: nothing, ("S", version, run), or ("L", token, least version that may be stored under it).
Value = tuple[str, int, int] | None


class Rules(NamedTuple):
    """The parts of the protocol; leaving any of them out must be found."""

    invalidate_after_commit: bool = True
    invalidate_on_replay: bool = True
    compare_token: bool = True
    remember_least: bool = True
    invalidate_when_busy: bool = True
    # What a worker has not been able to remove it does not read.
    read_nothing_pending: bool = True
    # Nothing is read from a server that was started less than a snapshot's life ago, nor stored there.
    quarantine: bool = True
    # Every worker asks a server who it is before it uses it.
    ask_who_answers: bool = True
    # A lease is worth nothing in a server that was started after it was given.
    fill_in_the_same_life: bool = True
    # A snapshot of another run of Postgres is not served.
    serve_only_this_run: bool = True
    # Invalidating removes a snapshot of another run, whatever its version.
    remove_other_runs: bool = True
    # What was read in a run that has ended since is not stored.
    fill_in_the_same_run: bool = True


ALL = Rules()


def invalidate(value: Value, version: int, run: int = 0, rules: Rules = ALL) -> Value:
    """Do what `invalidate.lua` does to one snapshot."""
    if value is None:
        return None
    if value[0] == "L":
        if rules.remember_least and value[2] < version:
            return ("L", value[1], version)
        return value
    other = rules.remove_other_runs and value[2] != run
    return None if other or value[1] < version else value


def look_up(value: Value, token: int) -> tuple[Value, str]:
    """Do what `gate.lua` does for a snapshot: the value left behind, and `hit`, `lease` or `busy`."""
    if value is None:
        return ("L", token, 0), "lease"
    return value, "hit" if value[0] == "S" else "busy"


def fill(value: Value, token: int, version: int, run: int = 0, rules: Rules = ALL) -> Value:
    """Do what `fill.lua` does."""
    if value is not None and value[0] == "L":
        mine = value[1] == token or not rules.compare_token
        if mine and value[2] <= version:
            return ("S", version, run)
    return invalidate(value, version, run, rules)
