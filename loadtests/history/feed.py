"""The checks of the feed: compare the events that its readers got with the books and with the answers."""

import json
from collections import Counter
from typing import Any

from loadtests.figures import grouped
from loadtests.history.model import SIDES, Check, History, Name, Told, Verdict
from loadtests.history.recorder import FAIL, OK

# Type of the event for a posted transfer, by the transfer's kind.
TYPES = {
    "transfer": "transfer.posted",
    "hold": "hold.created",
    "capture": "hold.captured",
    "void": "hold.voided",
    "expiry": "hold.expired",
    "reversal": "transfer.reversed",
}
REFUSED = "transfer.refused"
POLL, STREAM, WEBHOOK = READERS = ("poll", "stream", "webhook")
# Brokers may get an event twice, but first get the events of each account in order.
BROKERS = ("kafka", "rabbitmq")


def check_readers(history: History, verdict: Verdict) -> None:
    """F1. Judges all events that readers got."""
    first: dict[tuple[str, int], Told] = {}
    for told in history.told:
        known = first.setdefault((told.ledger, told.position), told)
        if told[1:] != known[1:]:
            verdict.flag(
                "F1", f"{told} told to {told.reader} as {told.data}, is {known} {known.data} to {known.reader}"
            )
    # The last position of each ledger.
    heads = dict(sorted(first))
    for reader, mine in grouped(history.told, lambda told: told.reader).items():
        for ledger, head in heads.items():
            verdict.judged["F1"] += 1
            found, due = [told.position for told in mine if told.ledger == ledger], list(range(1, head + 1))
            if missing := sorted(set(due) - set(found)):
                count = f"{len(missing)} of {head} events of {ledger}"
                verdict.flag("F1", f"{reader} was never told {count}, the first of them at {missing[0]}")
            # An event that was not accepted is sent again, and so is one of which nobody knows whether it was accepted.
            elif reader in (POLL, STREAM) and found != due:
                wrong = next(n for n, position in enumerate(found, 1) if n != position)
                verdict.flag("F1", f"{reader} of {ledger} was told {found[wrong - 1]} where {wrong} comes")


def check_brokers(history: History, verdict: Verdict) -> None:
    """F4. Judges the first arrival of each event at a broker."""
    newest: dict[tuple[str, str, str], Told] = {}
    seen: set[tuple[str, str, int]] = set()
    for told in history.told:
        name = told.reader, told.ledger, told.position
        if told.reader not in BROKERS or name in seen:
            continue
        seen.add(name)
        said = json.loads(told.data)
        account = said["source"] if "source" in said else said.get("id")
        # A refusal may name no account.
        if account is None:
            continue
        verdict.judged["F4"] += 1
        last = newest.get((told.reader, told.ledger, account), told)
        if told.position < last.position:
            verdict.flag("F4", f"{told} of {account}, came to {told.reader} behind {last}")
        else:
            newest[told.reader, told.ledger, account] = told


def _events(history: History) -> list[tuple[Told, dict[str, Any]]]:
    """Return the events of all ledgers in order, each once, with their decoded data."""
    first = {(told.ledger, told.position): told for told in reversed(history.told)}
    return [(told, json.loads(told.data)) for _, told in sorted(first.items())]


def check_booked(history: History, verdict: Verdict) -> None:
    """F2. Judges the events, if the history has books and a feed."""
    if not history.told or not history.accounts:
        return
    times: Counter[Name] = Counter()
    versions: Counter[Name] = Counter()
    for told, said in _events(history):
        if told.type == REFUSED:
            continue
        verdict.judged["F2"] += 1
        if told.type.startswith("account."):
            shown: dict[str, int] = {said["id"]: said["version"]}
        else:
            name = told.ledger, told.subject
            times[name] += 1
            other = history.booked_otherwise(name, said)
            if other or told.type != TYPES[said["kind"]]:
                verdict.flag("F2", f"{told} shows {said}; the books have {other or 'the same'}")
            shown = {said[side]: said[f"{side}_version"] for side in SIDES}
        for account, version in shown.items():
            last = versions[told.ledger, account]
            # An expired hold already reserved nothing before its expiry is posted, which may leave the version
            # unchanged.
            if version < last or (version == last and told.type != TYPES["expiry"]):
                verdict.flag("F2", f"{told} has version {version} of {account}, behind {last}")
            versions[told.ledger, account] = version
    for name in {*history.listed, *history.legs, *times}:
        if times[name] != (name in history.listed or name in history.legs):
            verdict.flag("F2", f"{name[1]}, of the books of {name[0]}, is told {times[name]} times")
    for known in history.accounts:
        last = versions[known.ledger, known.id]
        if last != known.version:
            verdict.flag("F2", f"{known.id} has version {known.version}; its events end with {last}")


def check_told(history: History, verdict: Verdict) -> None:
    """F3. Judges requests that got a final answer, if there is a feed."""
    if not history.told:
        return
    shown: dict[Name, dict[str, Any]] = {}
    refused: Counter[Name] = Counter()
    for told, said in _events(history):
        shown[told.ledger, told.subject] = said
        refused[told.ledger, said.get("reference") or ""] += told.type == REFUSED
    for (ledger, key), operations in history.by_key.items():
        bound = [operation for operation in operations if operation.bound]
        verdict.judged["F3"] += bool(bound)
        for operation in bound:
            answer = operation.said if operation.outcome == OK else {}
            said = shown.get((ledger, operation.transfer_id), {})
            if any(said.get(name) != value for name, value in answer.items()):
                verdict.flag("F3", f"{key} was answered {answer}; {said} is told")
        # A transfer that has a parent does not name its key.
        if bound and not operations[0].parent:
            due = all(operation.outcome == FAIL for operation in bound)
            if refused[ledger, key] != due:
                verdict.flag("F3", f"{key} is told as refused {refused[ledger, key]} times, not {due:d}")


FEED_CHECKS = {
    "F1": Check(
        "each reader is told all events and the same, in order and once, a webhook and a broker at least once",
        check_readers,
    ),
    "F2": Check("the feed has all of the books, each once, every account's in the order of its versions", check_booked),
    "F3": Check("what was answered for ever is told as it was answered, and what stays refused once", check_told),
    "F4": Check("a broker is told of what comes of an account in the order of the feed", check_brokers),
}
