"""A Python version of what the Lua scripts do to a snapshot's key; `test_scripts.py` compares the two."""

from typing import NamedTuple

# The value of the key: none, ("S", version, run), or ("L", token, least version that may be stored under it).
Value = tuple[str, int, int] | None


class Rules(NamedTuple):
    """The parts of the protocol; the search must find a violation without any one of them."""

    invalidate_after_commit: bool = True
    invalidate_on_replay: bool = True
    compare_token: bool = True
    remember_least: bool = True
    invalidate_when_busy: bool = True
    # A worker does not read a snapshot while it has an invalidation pending.
    read_nothing_pending: bool = True
    # Snapshots are neither read from nor stored in a server that started less than a snapshot's life ago.
    quarantine: bool = True
    # Every worker checks which server answers before it uses it.
    ask_who_answers: bool = True
    # A lease is not valid in a server that started after the lease was given.
    fill_in_the_same_life: bool = True
    # A snapshot of another run of Postgres is not served.
    serve_only_this_run: bool = True
    # Invalidating removes a snapshot of another run, whatever its version.
    remove_other_runs: bool = True
    # What was read in a run that has ended since is not stored.
    fill_in_the_same_run: bool = True


ALL = Rules()


def invalidate(value: Value, version: int, run: int = 0, rules: Rules = ALL) -> Value:
    """Do to one snapshot what `invalidate.lua` does."""
    if value is None:
        return None
    if value[0] == "L":
        if rules.remember_least and value[2] < version:
            return ("L", value[1], version)
        return value
    other = rules.remove_other_runs and value[2] != run
    return None if other or value[1] < version else value


def look_up(value: Value, token: int) -> tuple[Value, str]:
    """Do for a snapshot what `gate.lua` does: return the new value, and `hit`, `lease` or `busy`."""
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
