"""The checks C1 to C8 of a history; verdict.py says what each asserts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from loadtests.history import keys, reads
from loadtests.history.model import Account, Entry, Gauge, History
from loadtests.history.recorder import FAULTS_STARTED, FAULTS_STOPPED, UNKNOWN
from loadtests.history.verdict import CHECKS, Verdict

# Seconds in which a service must be back after faults have stopped, and the share that must succeed from then on.
BACK_SECONDS = 10.0
BACK_SHARE = 0.999


def check(history: History, only: Iterable[str] = CHECKS) -> Verdict:
    """Return what all checks, or some of them, find in a history."""
    verdict = Verdict()
    for name in only:
        _CHECKS[name](history, verdict)
    return verdict


def check_balances(history: History, verdict: Verdict) -> None:
    """C1. The books must hold all accounts that the recorded clients moved money on, and floors must not have moved."""
    sums: Counter[tuple[str, str]] = Counter()
    accounts: dict[tuple[str, str], Account] = {}
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
    """C3. Judged from the statements alone, so that no sum of the service is believed."""
    entries: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    sides: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in history.entries:
        entries[entry.ledger, entry.account].append(entry)
        sides[entry.ledger, entry.transfer_id].append(entry)
    for account in history.accounts:
        verdict.judged["C3"] += 1
        balance, version = 0, 0
        for entry in sorted(entries[account.ledger, account.id], key=lambda entry: entry.version):
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
    for (_, transfer_id), legs in sides.items():
        if sum(leg.amount for leg in legs) != 0 or len(legs) != 2 or legs[0].account != legs[1].counterparty:
            verdict.flag("C3", f"{transfer_id} has the legs {[(leg.account, leg.amount) for leg in legs]}")


def check_liveness(history: History, verdict: Verdict) -> None:
    """C8. Judged for every time that faults were stopped, until they were started again."""
    for mark in history.marks:
        if mark.name == FAULTS_STOPPED:
            starts = (m.at for m in history.marks if (m.clock, m.name) == (mark.clock, FAULTS_STARTED))
            _check_back(history, verdict, mark.clock, mark.at, min((at for at in starts if at > mark.at), default=None))
    first = min((mark.at for mark in history.marks if mark.name == FAULTS_STARTED), default=None)
    if first is not None:
        _check_sizes(history.gauges, verdict, first)


def _check_back(history: History, verdict: Verdict, clock: str, stopped: float, until: float | None) -> None:
    since = stopped + BACK_SECONDS
    # What was sent and never answered counts, but not what the next faults cut off.
    sent = [
        operation
        for operation in history.operations
        if operation.clock == clock and since <= operation.invoked and (until is None or operation.ended < until)
    ]
    verdict.judged["C8"] += len(sent)
    good = sum(o.outcome != UNKNOWN and o.status < 500 for o in sent)
    if not sent:
        verdict.flag("C8", f"nothing was sent from {BACK_SECONDS:g} s after the faults of second {stopped:.1f} on")
    elif good < BACK_SHARE * len(sent):
        verdict.flag("C8", f"{good} of {len(sent)} succeed from {BACK_SECONDS:g} s after second {stopped:.1f} on")


def _check_sizes(gauges: Iterable[Gauge], verdict: Verdict, started: float) -> None:
    by_name: dict[tuple[str, str], list[Gauge]] = defaultdict(list)
    for gauge in gauges:
        by_name[gauge.clock, gauge.name].append(gauge)
    for (_, name), values in by_name.items():
        verdict.judged["C8"] += 1
        before = [gauge.value for gauge in values if gauge.at <= started]
        last = max(values, key=lambda gauge: gauge.at)
        if not before or last.at <= started:
            verdict.flag("C8", f"{name} was not measured both before the first fault and after it")
        elif last.value > last.growth_max * max(before):
            verdict.flag("C8", f"{name} was {max(before):g} before the first fault and is {last.value:g} in the end")


_CHECKS: dict[str, Callable[[History, Verdict], None]] = {
    "C1": check_balances,
    "C2": keys.check_promises,
    "C3": check_folds,
    "C4": keys.check_answers,
    "C5": reads.check_acknowledged,
    "C6": reads.check_versions,
    "C7": keys.check_bindings,
    "C8": check_liveness,
}
