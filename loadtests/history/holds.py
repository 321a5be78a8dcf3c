"""
The checks of holds, captures, voids, expiries and reversals.

Whether a hold has expired is judged by the service's own clock as far as its answers show it: the clock has passed an
instant once a client has an answer that names it.
"""

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from loadtests.figures import grouped
from loadtests.history.model import History, Name, Operation, Row, Timeline, Verdict
from loadtests.history.recorder import OK, PROGRESS

# Life of a hold whose request names none, by the API's contract.
HOLD_SECONDS_DEFAULT = 604_800
# A ledger, an account in it, and the account's side in holds.
Side = tuple[str, str, str]
# Amounts, each with the instant from which it counts.
Changes = list[tuple[float, int]]
# The member of an account that sums the holds in which it is on that side.
HELD = {"source": "held_out", "destination": "held_in"}


class Hold(NamedTuple):
    """A hold of the books: when it was first requested, when it expires, and its children."""

    row: Row
    invoked: float
    expires_at: str
    children: list[Row]
    told: list[Operation]

    def ends(self, child: Operation) -> bool:
        """Whether nothing was left of the hold after this capture or void, which was acknowledged."""
        return child.kind == "void" or child.asked.get("release_rest", True)


def clock_of(history: History) -> Timeline:
    """
    Return the least value of the service's clock at an instant of the clients' clock, as answers until then show it.
    """
    return Timeline(((o.ended, o.created_at) for o in history.transfers() if o.created_at), "")


def _told_of(history: History) -> dict[Name, list[Operation]]:
    """Return the acknowledged captures, voids and reversals by their parent, each once, oldest first."""
    firsts: dict[Name, Operation] = {}
    for operation in sorted(history.transfers(), key=lambda o: o.ended):
        if operation.outcome == OK and operation.parent:
            firsts.setdefault((operation.ledger, operation.transfer_id), operation)
    return grouped(firsts.values(), lambda operation: (operation.ledger, operation.parent))


def holds(history: History) -> dict[Name, Hold]:
    """Return the holds of the books that a client requested."""
    told, found = _told_of(history), {}
    for name, row in history.listed.items():
        asked = history.by_key.get((row.ledger, row.key))
        if row.kind == "hold" and asked:
            first = min(asked, key=lambda operation: operation.invoked)
            lasts = timedelta(seconds=first.asked.get("expires_in") or HOLD_SECONDS_DEFAULT)
            # In the service's format, so that earlier instants sort first as text.
            at = (datetime.fromisoformat(row.created_at) + lasts).astimezone(UTC)
            expires_at = f"{at:%Y-%m-%dT%H:%M:%S.%f}Z"
            found[name] = Hold(row, first.invoked, expires_at, history.children.get(name, []), told.get(name, []))
    return found


def _sum(rows: Iterable[Row], kind: str) -> int:
    return sum(row.amount for row in rows if row.kind == kind)


def check_caps(history: History, verdict: Verdict) -> None:
    """H1. Judges the holds in the books, and all reversals."""
    for name, rows in history.children.items():
        moved, reversed_ = max((leg.amount for leg in history.legs.get(name, ())), default=0), _sum(rows, "reversal")
        verdict.judged["H1"] += reversed_ > 0
        if reversed_ > moved:
            verdict.flag("H1", f"of {name[1]}, which moved {moved}, {reversed_} was moved back")
    for hold in holds(history).values():
        verdict.judged["H1"] += 1
        _check_hold(hold, verdict)


def _check_hold(hold: Hold, verdict: Verdict) -> None:
    key, captured = hold.row.key, _sum(hold.children, "capture")
    if captured > hold.row.amount:
        verdict.flag("H1", f"of {key}, a hold of {hold.row.amount}, {captured} was captured")
    released = {child.transfer_id for child in hold.told if hold.ends(child)}
    ends = [row for row in hold.children if row.kind in ("void", "expiry") or row.transfer_id in released]
    if len(ends) > 1:
        verdict.flag("H1", f"{key} ended {len(ends)} times: {', '.join(row.kind for row in ends)}")
    for row in hold.children:
        if any(row.created_at > end.created_at for end in ends):
            verdict.flag("H1", f"{key} has a {row.kind} of {row.created_at}, after its end")
        if (row.kind == "expiry") != (row.created_at >= hold.expires_at):
            verdict.flag("H1", f"{key}, due at {hold.expires_at}, has its {row.kind} at {row.created_at}")


def check_progress(history: History, verdict: Verdict) -> None:
    """H2. Judges reads of transfers, if the history has books."""
    if not history.accounts:
        return
    told, clock, booked = _told_of(history), clock_of(history), holds(history)
    for operation in history.operations:
        if operation.operation != PROGRESS or operation.status != 200:
            continue
        said = operation.said
        name = operation.ledger, said["id"]
        known = [child for child in told.get(name, ()) if child.ended < operation.invoked]
        verdict.judged["H2"] += 1
        hold = said["hold"] or {}
        for kind, shown in (("capture", hold.get("captured", 0)), ("reversal", said["reversed"])):
            least = sum(child.said["amount"] for child in known if child.kind == kind)
            most = _sum(history.children.get(name, ()), kind)
            if not least <= shown <= most:
                verdict.flag("H2", f"{said['id']} was read with {kind} {shown}, not {least} to {most}")
        if hold and name in booked:
            _check_state(booked[name], hold, known, clock.before(operation.invoked), verdict)


def _check_state(hold: Hold, shown: Mapping[str, Any], known: Iterable[Operation], now: str, verdict: Verdict) -> None:
    """Judge how a hold was read when these of its children were known and the service's clock had reached *now*."""
    state, left = shown["state"], shown["remaining"]
    if (state == "open") != (left > 0) or shown["captured"] + left > hold.row.amount:
        verdict.flag("H2", f"{hold.row.key} of {hold.row.amount} was read as {shown}")
    if shown["expires_at"] != hold.expires_at:
        verdict.flag("H2", f"{hold.row.key} is due at {hold.expires_at} and was read as {shown}")
    if state == "open" and (now >= hold.expires_at or any(hold.ends(child) for child in known)):
        verdict.flag("H2", f"{hold.row.key}, due at {hold.expires_at}, was read as open after it had ended, past {now}")


def check_accounts_read(
    history: History, verdict: Verdict, check: str = "H3", read: str = "read", *, too_old: bool = False
) -> None:
    """
    H3. Judges reads of accounts, if the history has books.

    At most, an account shows as held the holds requested before the read's answer, less what was known to have ended
    when the read was sent. Even a read that may be stale shows no hold that had expired by then.
    """
    if not history.accounts:
        return
    clock = clock_of(history)
    # By account and side: instants from which an amount may be held, and from which it no longer is.
    begun: dict[Side, Changes] = defaultdict(list)
    over: dict[Side, Changes] = defaultdict(list)
    for hold in holds(history).values():
        for side in HELD:
            name = hold.row.ledger, str(getattr(hold.row, side)), side
            begun[name].append((hold.invoked, hold.row.amount))
            over[name] += _ends(hold._replace(told=[]) if too_old else hold, clock)
    nothing = Timeline((), 0)
    most_begun, least_over = (
        {name: Timeline(some, 0, operator.add) for name, some in changes.items()} for changes in (begun, over)
    )
    for operation in history.operations:
        if operation.operation != read or operation.status != 200:
            continue
        said = operation.said
        verdict.judged[check] += 1
        if said["available"] != said["balance"] - said["held_out"]:
            shown = f"{said['balance']}, {said['held_out']} of it held, and {said['available']} available"
            verdict.flag(check, f"{said['id']} was read with {shown}")
        for side, held in HELD.items():
            name = operation.ledger, said["id"], side
            most = most_begun.get(name, nothing).before(operation.ended)
            most -= least_over.get(name, nothing).before(operation.invoked)
            if not 0 <= said[held] <= most:
                verdict.flag(check, f"{said['id']} was read with {said[held]} {held}; {most} can have been")


def _ends(hold: Hold, clock: Timeline) -> Changes:
    """Return the instants at which it became known that parts of a hold reserve nothing any more."""
    ends, left = [], hold.row.amount
    due = clock.reached(hold.expires_at)
    for child in hold.told:
        part = left if hold.ends(child) else min(left, child.said["amount"])
        if due is not None and child.ended > due:
            break
        ends.append((child.ended, part))
        left -= part
    return ends if due is None else [*ends, (due, left)]
