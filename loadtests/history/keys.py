"""What a key was told and what the ledger did under it: C2, C4 and C7."""

import json
from collections import Counter, defaultdict

from loadtests.history.model import Entry, History, Operation
from loadtests.history.recorder import FAIL, OK, UNKNOWN
from loadtests.history.verdict import Verdict

_REUSED = 422
# Ledger and idempotency key.
Name = tuple[str, str]


def by_key(history: History) -> dict[Name, list[Operation]]:
    """Return the operations that ask for transfers, by the ledger and the key that they name."""
    found: dict[Name, list[Operation]] = defaultdict(list)
    for operation in history.transfers():
        found[operation.ledger, operation.key].append(operation)
    return found


def check_promises(history: History, verdict: Verdict) -> None:
    """C2. Judged where the history has books; of transfers whose key the books know."""
    if not history.accounts:
        return
    booked: dict[Name, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in history.entries:
        booked[entry.ledger, entry.key][entry.transfer_id].append(entry)
    asked = by_key(history)
    for name in booked.keys() - asked.keys():
        verdict.flag("C2", f"{', '.join(booked[name])} under the key {name[1]!r} was asked for by nobody")
    for name, operations in asked.items():
        verdict.judged["C2"] += 1
        _check_key(name[1], operations, booked.get(name, {}), verdict)


def _check_key(key: str, operations: list[Operation], booked: dict[str, list[Entry]], verdict: Verdict) -> None:
    acknowledged = [operation for operation in operations if operation.outcome == OK]
    if len(booked) > 1:
        verdict.flag("C2", f"{key} was executed {len(booked)} times: {', '.join(booked)}")
    if acknowledged:
        for operation in acknowledged:
            if operation.transfer_id not in booked:
                verdict.flag("C2", f"{key} was acknowledged as {operation.transfer_id}, which is not in the books")
            else:
                _check_legs(key, operation, booked[operation.transfer_id], verdict)
    elif booked and any(operation.bound for operation in operations):
        verdict.flag("C2", f"{key} was refused for ever and is in the books as {', '.join(booked)}")
    elif booked and all(operation.outcome == FAIL for operation in operations):
        verdict.flag("C2", f"{key} was never applied, as was said, and is in the books as {', '.join(booked)}")


def _check_legs(key: str, operation: Operation, legs: list[Entry], verdict: Verdict) -> None:
    """Compare what was asked for and answered with what was done."""
    asked = json.loads(operation.request)
    done = {(leg.account, leg.amount, leg.counterparty) for leg in legs}
    source, destination, amount = asked["source"], asked["destination"], asked["amount"]
    if done != {(source, -amount, destination), (destination, amount, source)}:
        verdict.flag("C2", f"{key} asked for {amount} from {source} to {destination}; done was {sorted(done)}")
    states = {(leg.account, leg.version, leg.balance) for leg in legs}
    if states != set(operation.shown):
        verdict.flag("C2", f"{key} was answered {sorted(operation.shown)}; the books have {sorted(states)}")


def check_answers(history: History, verdict: Verdict) -> None:
    """C4. Judged of requests that were answered for ever more than once."""
    answers: dict[tuple[str, str, str], list[Operation]] = defaultdict(list)
    for operation in history.transfers():
        if operation.bound:
            answers[operation.ledger, operation.key, operation.fingerprint].append(operation)
    for (_, key, _), operations in answers.items():
        if len(operations) < 2:
            continue
        verdict.judged["C4"] += 1
        firsts = sum(not operation.replayed for operation in operations)
        if firsts > 1:
            verdict.flag("C4", f"{key} has {firsts} answers that are not marked as replayed")
        different = {(operation.status, operation.response) for operation in operations}
        if len(different) > 1:
            verdict.flag("C4", f"{key} was answered in {len(different)} ways: {sorted(different)}")


def check_bindings(history: History, verdict: Verdict) -> None:
    """C7. Judged of keys that were sent with more than one request, or in more than one ledger."""
    ledgers: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for (ledger, key), operations in by_key(history).items():
        requests = {operation.fingerprint for operation in operations}
        bound = {operation.fingerprint for operation in operations if operation.bound}
        reused = {operation.fingerprint for operation in operations if operation.status == _REUSED}
        verdict.judged["C7"] += len(requests) > 1
        if len(bound) > 1:
            verdict.flag("C7", f"{key} was answered for {len(bound)} different requests")
        if reused & bound:
            verdict.flag("C7", f"{key} was refused as reused for the very request that it is bound to")
        elif reused and not bound and not _may_be_bound(operations):
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


def _may_be_bound(operations: list[Operation]) -> bool:
    """Tell whether every request that was called reused may have met another one of an unknown outcome."""
    unknown = {operation.fingerprint for operation in operations if operation.outcome == UNKNOWN}
    reused = {operation.fingerprint for operation in operations if operation.status == _REUSED}
    return all(unknown - {request} for request in reused)
