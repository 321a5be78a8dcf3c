"""The checks of a history."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from functools import partial

from loadtests.figures import grouped
from loadtests.history.holds import check_accounts_read, check_caps, check_progress
from loadtests.history.model import SIDES, Account, Check, History, Name, Operation, Shown, Timeline, Verdict
from loadtests.history.recorder import FAIL, FAULTS_STARTED, FAULTS_STOPPED, LOOK_UP, OK, UNKNOWN

_REUSED = 422
# Seconds after the end of faults by which the service must be back, and the share of requests that must then succeed.
BACK_SECONDS = 10.0
BACK_SHARE = 0.999


def check_balances(history: History, verdict: Verdict) -> None:
    """
    C1. The books must hold all accounts on which the recorded clients moved money, and floors must not have changed.
    """
    sums: Counter[tuple[str, str]] = Counter()
    accounts: dict[Name, Account] = {}
    for account in history.accounts:
        sums[account.ledger, account.currency] += account.balance
        accounts[account.ledger, account.id] = account
        if account.floor is not None and account.balance < account.floor:
            verdict.flag("C1", f"{account.id} has {account.balance}, below its floor {account.floor}")
    if not accounts:
        return
    for (ledger, currency), total in sums.items():
        if total != 0:
            verdict.flag("C1", f"all balances in {currency} of ledger {ledger or '-'} sum to {total}")
    for entry in history.entries:
        known = accounts.get((entry.ledger, entry.account))
        if known is None or (entry.ledger, entry.counterparty) not in accounts:
            verdict.flag("C1", f"{entry.transfer_id} moves money between {entry.account} and {entry.counterparty}")
        elif entry.amount < 0 and known.floor is not None and entry.balance < known.floor:
            verdict.flag("C1", f"{entry.transfer_id} takes {entry.account} to {entry.balance}, below {known.floor}")
    for operation in history.operations:
        for shown in operation.shown:
            known = accounts.get((operation.ledger, shown.account))
            if known is None:
                verdict.flag("C1", f"{shown.account} was shown and is not in the books")
            elif known.floor is not None and shown.balance < known.floor:
                verdict.flag("C1", f"{shown.account} was shown with {shown.balance}, below its floor {known.floor}")
    verdict.judged["C1"] += len(accounts)


def check_folds(history: History, verdict: Verdict) -> None:
    """C3. Judges the statements alone, so that no sum made by the service is trusted."""
    entries = grouped(history.entries, lambda entry: (entry.ledger, entry.account))
    for account in history.accounts:
        verdict.judged["C3"] += 1
        balance, version = 0, 0
        for entry in sorted(entries.get((account.ledger, account.id), ()), key=lambda entry: entry.version):
            balance += entry.amount
            if entry.balance != balance:
                verdict.flag("C3", f"{account.id} says {entry.balance} at version {entry.version}, not {balance}")
                balance = entry.balance
            if entry.version <= version:
                verdict.flag("C3", f"{account.id} has two entries of version {entry.version}")
            version = entry.version
        if account.balance != balance or account.version < version:
            at = f"{account.balance} at version {account.version}"
            verdict.flag("C3", f"{account.id} has {at}; its entries end with {balance} at {version}")
    for (_, transfer_id), legs in history.legs.items():
        if sum(leg.amount for leg in legs) != 0 or len(legs) != 2 or legs[0].account != legs[1].counterparty:
            verdict.flag("C3", f"{transfer_id} has the legs {[(leg.account, leg.amount) for leg in legs]}")


def check_liveness(history: History, verdict: Verdict) -> None:
    """C8. Judges each time without faults, from their end until they start again."""
    starts = [mark.at for mark in history.marks if mark.name == FAULTS_STARTED]
    for mark in history.marks:
        if mark.name == FAULTS_STOPPED:
            until = min((at for at in starts if at > mark.at), default=None)
            since = mark.at + BACK_SECONDS
            # A request that was never answered counts, but not one that the next faults cut off.
            sent = [o for o in history.operations if since <= o.invoked and (until is None or o.ended < until)]
            verdict.judged["C8"] += len(sent)
            good = sum(o.outcome != UNKNOWN and o.status < 500 for o in sent)
            if not sent or good < BACK_SHARE * len(sent):
                verdict.flag(
                    "C8", f"{good} of {len(sent)} succeed from {BACK_SECONDS:g} s after second {mark.at:.1f} on"
                )


def in_books(history: History) -> dict[Name, list[str]]:
    """Return the transfers of the books by key, without expiries, which no client asks for."""
    # The books do not know the key of a capture, void or reversal: it is the key that was answered with its id, or one
    # whose outcome is unknown.
    told = {(o.ledger, o.transfer_id): o.key for o in history.operations if o.transfer_id}
    lost: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (ledger, key), operations in history.by_key.items():
        if any(o.outcome == UNKNOWN for o in operations) and not any(o.bound for o in operations):
            lost[ledger, operations[0].parent, operations[0].kind].append(key)
    keys: dict[Name, str] = {}
    for name, row in history.listed.items():
        if row.kind != "expiry":
            candidates = lost[row.ledger, row.parent, row.kind]
            keys[name] = row.key or told.get(name, "") or (candidates.pop() if candidates else "")
    for entry in history.entries:
        keys.setdefault((entry.ledger, entry.transfer_id), entry.key)
    found: dict[Name, list[str]] = defaultdict(list)
    for (ledger, transfer_id), key in keys.items():
        found[ledger, key].append(transfer_id)
    return found


def check_promises(history: History, verdict: Verdict) -> None:
    """C2. Judges transfers whose key the books know, if the history has books."""
    if not history.accounts:
        return
    booked = in_books(history)
    for name in booked.keys() - history.by_key.keys():
        verdict.flag("C2", f"{', '.join(booked[name])} under the key {name[1]!r} was asked for by nobody")
    for name, operations in history.by_key.items():
        verdict.judged["C2"] += 1
        key, transfers = name[1], booked.get(name, [])
        _check_key(key, operations, transfers, verdict)
        for operation in operations:
            if operation.outcome == OK and operation.transfer_id in transfers:
                _check_transfer(history, operation, verdict)


def _check_key(key: str, operations: list[Operation], booked: Collection[str], verdict: Verdict) -> None:
    acknowledged = {operation.transfer_id for operation in operations if operation.outcome == OK}
    if len(booked) > 1:
        verdict.flag("C2", f"{key} was executed {len(booked)} times: {', '.join(booked)}")
    for transfer_id in acknowledged.difference(booked):
        verdict.flag("C2", f"{key} was acknowledged as {transfer_id}, which is not in the books")
    if acknowledged or not booked:
        return
    if any(operation.bound for operation in operations):
        verdict.flag("C2", f"{key} was refused for ever and is in the books as {', '.join(booked)}")
    elif all(operation.outcome == FAIL for operation in operations):
        verdict.flag("C2", f"{key} was never applied, as was said, and is in the books as {', '.join(booked)}")


def _check_transfer(history: History, operation: Operation, verdict: Verdict) -> None:
    """Compare the request with its answer, and the answer with the books."""
    said, asked = operation.said, operation.asked
    # A capture or reversal does not name its accounts, and may leave its amount to the service.
    due = {name: asked[name] for name in (*SIDES, "amount") if asked.get(name)}
    due |= {"kind": operation.kind, "parent": operation.parent}
    if any((said.get(name) or "") != value for name, value in due.items()):
        verdict.flag("C2", f"{operation.key} asked for {due} and was answered {said}")
    if other := history.booked_otherwise((operation.ledger, operation.transfer_id), said):
        verdict.flag("C2", f"{operation.key} was answered {said}; the books have {other}")


def check_answers(history: History, verdict: Verdict) -> None:
    """C4. Judges requests that got more than one final answer."""
    bound = (operation for operation in history.transfers() if operation.bound)
    for (ledger, key, _), operations in grouped(bound, lambda o: (o.ledger, o.key, o.fingerprint)).items():
        if len(operations) < 2:
            continue
        verdict.judged["C4"] += 1
        firsts = sum(not operation.replayed for operation in operations)
        # The first answer may have been lost.
        if firsts > 1 or (firsts == 0 and all(o.outcome != UNKNOWN for o in history.by_key[ledger, key])):
            verdict.flag("C4", f"{key} has {firsts} answers that are not marked as replayed")
        different = {(operation.status, operation.response) for operation in operations}
        if len(different) > 1:
            verdict.flag("C4", f"{key} was answered in {len(different)} ways: {sorted(different)}")


def check_bindings(history: History, verdict: Verdict) -> None:
    """C7. Judges keys that were sent with more than one request, or in more than one ledger."""
    ledgers: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for (ledger, key), operations in history.by_key.items():
        requests = {operation.fingerprint for operation in operations}
        bound = {operation.fingerprint for operation in operations if operation.bound}
        reused = {operation.fingerprint for operation in operations if operation.status == _REUSED}
        unknown = {operation.fingerprint for operation in operations if operation.outcome == UNKNOWN}
        verdict.judged["C7"] += len(requests) > 1
        if len(bound) > 1:
            verdict.flag("C7", f"{key} was answered for {len(bound)} different requests")
        if reused & bound:
            verdict.flag("C7", f"{key} was refused as reused for the very request that it is bound to")
        # Each may have met a different request of unknown outcome.
        elif not bound and not all(unknown - {request} for request in reused):
            verdict.flag("C7", f"{key} was refused as reused, and no other request can have bound it")
        for operation in operations:
            if operation.outcome == OK:
                ledgers[key][operation.transfer_id].add(ledger)
    for key, transfers in ledgers.items():
        counts = Counter(ledger for of_transfer in transfers.values() for ledger in of_transfer)
        verdict.judged["C7"] += len(counts) > 1
        for transfer_id, of_transfer in transfers.items():
            if len(of_transfer) > 1:
                verdict.flag("C7", f"{key} names {transfer_id} in the ledgers {sorted(of_transfer)}")


def check_look_ups(history: History, verdict: Verdict) -> None:
    """K. Judges look-ups that were answered, if the history has books."""
    if not history.accounts:
        return
    booked = {name: transfers[0] for name, transfers in in_books(history).items()}
    told = {name: [o.ended for o in operations if o.outcome == OK] for name, operations in history.by_key.items()}
    for operation in history.operations:
        if operation.operation != LOOK_UP or operation.status not in (200, 404):
            continue
        verdict.judged["K"] += 1
        name = operation.ledger, operation.key
        if operation.status == 404:
            if any(ended < operation.invoked for ended in told.get(name, ())):
                verdict.flag("K", f"{operation.key} was not found by a look-up after it had been acknowledged")
            continue
        said = operation.said
        posted = said.get("id") if said.get("state") == "posted" else None
        if posted != booked.get(name):
            shown = f"{said.get('id')}, {said.get('state')}"
            verdict.flag("K", f"{operation.key} is {shown} by a look-up and {booked.get(name)} in the books")


def _shown(history: History, *operations: str) -> Iterator[tuple[Operation, Shown]]:
    for operation in history.operations:
        if operation.outcome == OK and operation.operation in operations:
            for shown in operation.shown:
                yield operation, shown


def check_versions_read(
    history: History,
    verdict: Verdict,
    check: str,
    *,
    told_to: Callable[[Operation], Hashable] = lambda _: None,
    told_by: tuple[str, ...] = ("transfer",),
    read: str = "read",
    seconds: float = 0.0,
) -> None:
    """
    Flag reads of an older version than one that was answered before the read was sent. Judges accounts with such an
    answer.

    `told_to` groups each read with the answers that it must not be older than. A read may be *seconds* behind.
    """
    told: dict[Hashable, list[tuple[float, int]]] = defaultdict(list)
    for operation, shown in _shown(history, *told_by):
        told[told_to(operation), operation.ledger, shown.account].append((operation.ended, shown.version))
    newest = {name: Timeline(versions, 0) for name, versions in told.items()}
    behind = f" more than {seconds:.0f} s" if seconds else ""
    for operation, shown in _shown(history, read):
        timeline = newest.get((told_to(operation), operation.ledger, shown.account))
        due = timeline.before(operation.invoked - seconds) if timeline else 0
        verdict.judged[check] += due > 0
        if shown.version < due:
            who = f"{operation.process} read {shown.account} at version {shown.version}"
            verdict.flag(check, f"{who},{behind} after {due} was told")


def check_balances_read(history: History, verdict: Verdict, check: str, read: str = "read") -> None:
    """
    Flag reads that show a different balance than the books have at that version.

    A hold may expire between the instant of a transfer and its commit. A read in between shows the balance from before
    the transfer but counts the expiry, so it has the version that the transfer gets.
    """
    balances = {(entry.ledger, entry.account, entry.version): entry.balance for entry in history.entries}
    before: dict[tuple[str, str, int], int] = {}
    for name, later in itertools.pairwise(sorted(balances)):
        if name[:2] == later[:2]:
            before[later] = balances[name]
    expiries = {
        (row.ledger, side) for row in history.rows if row.kind == "expiry" for side in (row.source, row.destination)
    }
    told: dict[tuple[str, str, int], float] = {}
    for operation, shown in _shown(history, "transfer"):
        name = operation.ledger, shown.account, shown.version
        told[name] = min(operation.ended, told.get(name, math.inf))
    for operation, shown in _shown(history, read):
        name = operation.ledger, shown.account, shown.version
        booked = balances.get(name, shown.balance)
        early = name[:2] in expiries and operation.invoked < told.get(name, math.inf)
        if booked != shown.balance and not (early and before.get(name) == shown.balance):
            verdict.flag(check, f"{shown.account} was read with {shown.balance}; at {shown.version} it had {booked}")


def check_acknowledged(history: History, verdict: Verdict) -> None:
    """C5. Judges reads; if the history has books, also the balances that they show."""
    check_versions_read(history, verdict, "C5")
    check_balances_read(history, verdict, "C5")


# C6. Judges reads by a client that was shown the account before.
check_versions = partial(
    check_versions_read, check="C6", told_to=lambda operation: operation.process, told_by=("transfer", "read")
)
# In the order in which they run.
CHECKS = {
    "C1": Check("balances sum to zero, every account is known, none is below its floor", check_balances),
    "C2": Check("an acknowledged transfer is there once, a refused one not, others at most once", check_promises),
    "C3": Check("every balance is the fold of its entries, and every transfer's entries net to zero", check_folds),
    "C4": Check(
        "all answers to one request are the same bytes, and one is the first unless it got lost", check_answers
    ),
    "C5": Check("a read shows every transfer that was acknowledged before it was sent", check_acknowledged),
    "C6": Check("to one client no account's version goes back", check_versions),
    "C7": Check("a key is bound to one request, in one ledger; another changes nothing", check_bindings),
    "K": Check("a look-up by key says what became of it", check_look_ups),
    "H1": Check("no more is captured than held or moved back than moved, nothing of a hold that is over", check_caps),
    "H2": Check("a transfer that is read shows what was acknowledged of it, no hold that is due", check_progress),
    "H3": Check("accounts that are read show no hold that is over, and the rest as available", check_accounts_read),
    "C8": Check("after the faults nearly everything succeeds again", check_liveness),
}


def check(history: History, checks: Mapping[str, Check] = CHECKS) -> Verdict:
    verdict = Verdict()
    for each in checks.values():
        each.make(history, verdict)
    return verdict
