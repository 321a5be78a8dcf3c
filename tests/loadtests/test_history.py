"""Each check of a history passes a true history, and catches the falsified ones that it should."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.errors import NotRunError
from loadtests.history import model
from loadtests.history.__main__ import main
from loadtests.history.checks import CHECKS, check, check_balances_read
from loadtests.history.model import History, Verdict, load
from loadtests.history.recorder import HistoryFullError, Recorder, outcome_of
from tests.loadtests.stories import Event, Ledger, Story, eventful, flagged, history

Falsify = Callable[[list[Event]], object]


def only(events: list[Event], **fields: object) -> list[Event]:
    """Return the events with these fields."""
    return [event for event in events if fields.items() <= event.items()]


def outcomes(events: list[Event], **fields: object) -> list[Event]:
    """Return the outcomes of the operations that were invoked with these fields."""
    numbers = {event["op"] for event in only(events, event="invoke", **fields)}
    return [event for event in events if event["event"] != "invoke" and event.get("op") in numbers]


def edit(event: Event, **fields: object) -> None:
    """Change fields in the JSON of an answer."""
    event["response"] = json.dumps({**json.loads(event["response"]), **fields})


def drop(events: list[Event], **fields: object) -> None:
    """Remove the events with these fields."""
    for event in only(events, **fields):
        events.remove(event)


def copy_transfer(events: list[Event]) -> None:
    """Post k1 a second time in the books, which then add up again."""
    for entry in only(events, event="entry", ledger="main", key="k1"):
        account = only(events, event="account", ledger="main", id=entry["account"])[0]
        account["balance"] += entry["amount"]
        account["version"] += 1
        again = {"transfer_id": "main-again", "balance": account["balance"], "version": account["version"]}
        events.append({**entry, **again})


def lose_transfer(events: list[Event]) -> None:
    """Take the last transfer, k5, out of the books, which then add up again."""
    for entry in only(events, event="entry", ledger="main", key="k5"):
        account = only(events, event="account", ledger="main", id=entry["account"])[0]
        account["balance"] -= entry["amount"]
        account["version"] -= 1
        events.remove(entry)


def post_refused(events: list[Event]) -> None:
    """Make the refused k2 move money after all."""
    for entry in only(events, event="entry", ledger="main", key="k5"):
        entry["key"] = "k2"
    for outcome in outcomes(events, key="k5"):
        events.remove(only(events, event="invoke", op=outcome["op"])[0])
        events.remove(outcome)


def ask_for_less(events: list[Event]) -> None:
    """Make requests ask for a different amount than was moved."""
    for event in only(events, event="invoke", key="k1"):
        event["request"] = event["request"].replace("30", "3")


def unname(events: list[Event]) -> None:
    """Change the key of a transfer in the books to one that no client has sent."""
    for entry in only(events, event="entry", key="k3"):
        entry["key"] = "k9"


def succeed_later(events: list[Event]) -> None:
    """Make the second attempt at the refused k2 succeed."""
    response = outcomes(events, key="k1")[0]["response"]
    outcomes(events, key="k2")[1].update(event="ok", status=201, response=response)


def accept_another(events: list[Event]) -> None:
    """Answer a different request under k1 like the first."""
    first, _, reused = outcomes(events, key="k1")
    reused.update(first, op=reused["op"])


def without_faults(events: list[Event]) -> None:
    """Remove all marks of faults."""
    drop(events, event="mark")


def fail(status: int, key: str, number: int = 0) -> Falsify:
    """Return a function that gives one attempt of a key a status that says that nothing was done."""
    return lambda events: outcomes(events, key=key)[number].update(event="fail", status=status, response="{}")


def book(name: str, **fields: object) -> Falsify:
    """Return a function that changes an account in the books."""
    return lambda events: only(events, event="account", ledger="main", id=name)[0].update(fields)


def entry(account: str, key: str, **fields: object) -> Falsify:
    """Return a function that changes an entry in the books."""
    return lambda events: only(events, event="entry", ledger="main", account=account, key=key)[0].update(fields)


def read(account: str, number: int = 0, process: str = "u1", **fields: object) -> Falsify:
    """Return a function that changes the answer to a read."""
    path = f"/v1/accounts/{account}"
    return lambda events: edit(outcomes(events, path=path, process=process)[number], **fields)


def answer(key: str, number: int = 0, ledger: str = "main", **fields: object) -> Falsify:
    """Return a function that changes the answer to a payment."""
    return lambda events: edit(outcomes(events, key=key, ledger=ledger)[number], **fields)


def looked_up(events: list[Event]) -> Event:
    """Return the answer to the look-up of a key."""
    return outcomes(events, operation="look-up")[0]


def look_up(**fields: object) -> Falsify:
    """Return a function that changes the answer to a look-up."""
    return lambda events: edit(looked_up(events), **fields)


def row(kind: str, **fields: object) -> Falsify:
    """Return a function that changes the first row of a kind in the books."""
    return lambda events: only(events, event="row", kind=kind)[0].update(fields)


def voided_and_expired(events: list[Event]) -> None:
    """Make the voided hold expire as well."""
    row("expiry", parent=only(events, event="row", kind="void")[0]["parent"])(events)


def lose(key: str) -> Falsify:
    """Return a function that removes the transfer of a key, with its entries, from the books."""

    def falsify(events: list[Event]) -> None:
        transfer_id = json.loads(outcomes(events, key=key)[0]["response"])["id"]
        drop(events, event="row", transfer_id=transfer_id)
        drop(events, event="entry", transfer_id=transfer_id)

    return falsify


def copy_row(kind: str) -> Falsify:
    """Return a function that adds the first transfer of a kind to the books a second time."""
    return lambda events: events.append({**only(events, event="row", kind=kind)[0], "transfer_id": "main-again"})


def progress_of(events: list[Event], key: str) -> Event:
    """Return the answer to the read of a key's transfer."""
    path = f"/v1/transfers/{json.loads(outcomes(events, key=key)[0]['response'])['id']}"
    [told] = outcomes(events, operation="progress", path=path)
    return told


def shown(key: str, **fields: object) -> Falsify:
    """Return a function that changes the hold in the answer to the read of a key's transfer."""

    def falsify(events: list[Event]) -> None:
        told = progress_of(events, key)
        edit(told, hold={**json.loads(told["response"])["hold"], **fields})

    return falsify


FALSIFIED: list[tuple[str, str, Falsify]] = [
    ("C1", "money made", book("a", balance=999)),
    ("C1", "an account below its floor", book("a", floor=10_000)),
    ("C1", "an account nobody knows", lambda events: drop(events, event="account", ledger="main", id="b")),
    ("C1", "shown below its floor", read("a", balance=-1)),
    ("C1", "overdrawn for a moment", entry("a", "k1", balance=-5)),
    ("C2", "executed twice", copy_transfer),
    ("C2", "acknowledged and lost", lose_transfer),
    ("C2", "refused and posted", post_refused),
    ("C2", "never applied, as was said, and posted", fail(400, "k3")),
    ("C2", "another amount", ask_for_less),
    ("C2", "another transfer answered", answer("k5", id="main-nowhere")),
    ("C2", "another balance answered", answer("k5", source_balance=1)),
    ("C2", "asked for by nobody", unname),
    ("C3", "a balance that drifted", book("b", balance=1)),
    ("C3", "an entry that is gone", lambda events: drop(events, event="entry", ledger="main", key="k1", account="b")),
    ("C3", "a transfer out of balance", entry("b", "k1", amount=31)),
    ("C3", "a version used twice", entry("a", "k5", version=2)),
    ("C4", "a replay that differs", answer("k1", 1, created_at="later")),
    ("C4", "a refusal that succeeds later", succeed_later),
    ("C4", "two firsts", lambda events: outcomes(events, key="k1")[1].update(replayed=False)),
    ("C4", "no first", lambda events: outcomes(events, key="k1")[0].update(replayed=True)),
    ("C5", "a read behind an acknowledged write", read("a", version=2)),
    ("C5", "a balance of another version", read("a", balance=71)),
    ("C6", "a version that goes back", read("a", 1, "u2", version=4)),
    ("C7", "two requests under one key", accept_another),
    ("C7", "reused without another", fail(422, "k5")),
    ("C7", "reused by itself", fail(422, "k1", 1)),
    ("C7", "one transfer in two ledgers", answer("fill", ledger="other", id="main-1")),
    ("K", "another transfer", look_up(id="main-3")),
    ("K", "refused by a look-up", look_up(state="refused")),
    ("K", "not found after it was acknowledged", lambda events: looked_up(events).update(event="fail", status=404)),
    ("C2", "a capture that is undone", lose("c2")),
    ("C2", "a reversal that is undone", lose("r1")),
    ("C2", "a void that is undone", lose("v1")),
    ("C2", "a hold that is undone", lose("h2")),
    ("C2", "a capture that is doubled", copy_row("capture")),
    ("C2", "a void that is doubled", copy_row("void")),
    ("C2", "a reversal that is doubled", copy_row("reversal")),
    ("C2", "a capture of another amount", row("capture", amount=6)),
    ("C2", "a capture answered with another instant", answer("c1", created_at="2026-01-01T00:00:00.000000Z")),
    ("H1", "more captured than held", row("capture", amount=16)),
    ("H1", "more moved back than moved", row("reversal", amount=6)),
    ("H1", "captured when it is due", row("hold", created_at="2025-12-31T23:59:00.000000Z")),
    ("H1", "captured after its end", row("capture", created_at="2026-01-01T00:00:59.000000Z")),
    ("H1", "voided and expired", voided_and_expired),
    ("H1", "expired early", row("expiry", created_at="2026-01-01T00:00:01.000000Z")),
    ("H2", "a capture that is not seen", shown("h1", captured=0)),
    ("H2", "a capture that nobody made", shown("h1", captured=21)),
    ("H2", "a reversal that is not seen", lambda events: edit(progress_of(events, "c1"), reversed=0)),
    ("H2", "a reversal that nobody made", lambda events: edit(progress_of(events, "c1"), reversed=3)),
    ("H2", "open after its void", shown("h2", state="open", remaining=7)),
    ("H2", "open after its expiry", shown("h3", state="open", remaining=2)),
    ("H2", "open with nothing left", shown("h1", remaining=0)),
    ("H2", "more than there was", shown("h1", remaining=16)),
    ("H2", "due at another instant", shown("h1", expires_at="2026-01-01T00:00:00.000000Z")),
    ("H3", "held that is available", read("c", available=100)),
    ("H3", "less than nothing held", read("c", held_in=-1)),
    ("H3", "held after its expiry", read("c", 1, held_out=2, available=82)),
    ("H3", "held for nobody", read("c", held_out=21, available=79)),
    ("C8", "not back in time", lambda events: outcomes(events, key="k5")[0].update(event="unknown", status=503)),
    ("C8", "nothing sent afterwards", lambda events: only(events, name="faults_stopped")[0].update(at=1e6)),
]


def test_a_true_history_passes() -> None:
    """A true history has no violation, and gives every check something to judge."""
    verdict = check(history(eventful()))
    assert verdict.violations == []
    assert all(verdict.judged[name] for name in CHECKS)


def test_other_bytes_of_one_meaning_are_one_request() -> None:
    """A retry with different bytes but the same meaning counts as the same request."""
    events = eventful()
    again = only(events, event="invoke", key="k1")[1]
    asked = json.loads(again["request"])
    again["request"] = json.dumps({"metadata": {}, "hold": False, **dict(reversed(asked.items()))}, indent=1)
    assert check(history(events)).violations == []


@pytest.mark.parametrize(("name", "falsify"), [pytest.param(c, f, id=f"{c} {what}") for c, what, f in FALSIFIED])
def test_a_falsified_history_is_caught(name: str, falsify: Falsify) -> None:
    """The named check is among those that find a violation."""
    events = eventful()
    falsify(events)
    assert name in flagged(check(history(events)))


@pytest.mark.parametrize(
    ("kind", "invoked", "balance", "found"),
    [
        pytest.param("expiry", 4.0, 70, 0, id="an expiry counts, and the transfer is not there yet"),
        pytest.param("expiry", 6.0, 70, 1, id="the transfer had been told"),
        pytest.param("expiry", 4.0, 71, 1, id="a balance that never was"),
        pytest.param("void", 4.0, 70, 1, id="nothing expires"),
    ],
)
def test_an_expiry_has_the_version_of_a_transfer(kind: str, invoked: float, balance: int, found: int) -> None:
    """
    Between a transfer's instant and its commit, a read may have its version with the earlier balance if a hold expired.
    """
    entries = [model.Entry("main", "a", f"t{v}", f"k{v}", -5, "b", 80 - 5 * v, v) for v in (2, 3)]
    row = model.Row("main", "x", kind, "", "h", "c", "a", 1, "")
    paid = model.Operation("u1", "transfer", "main", "k3", "", "{}", 3.0, 5.0, "ok", shown=(model.Shown("a", 3, 65),))
    read = model.Operation("u2", "read", "main", "", "", "", invoked, 7.0, "ok", shown=(model.Shown("a", 3, balance),))
    verdict = Verdict()
    check_balances_read(History([paid, read], entries=entries, rows=[row]), verdict, "C5")
    assert len(verdict.violations) == found


def test_every_check_is_tried() -> None:
    assert {name for name, _, _ in FALSIFIED} == set(CHECKS)


# The checks that need no faults.
CALM = {name: each for name, each in CHECKS.items() if name != "C8"}
Step = tuple[str, int, int, int, bool]
# Kind of step, source, distance to the destination, amount, and whether the answer is lost.
step = st.tuples(
    st.sampled_from(["pay", "again", "read", "hold", "capture", "void", "reverse", "progress"]),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 90),
    st.booleans(),
)
steps = st.lists(step, min_size=1, max_size=25)


def told(script: list[Step]) -> list[Event]:
    """Return the true history of payments, holds, their children and reads, with repeated requests and lost answers."""
    ledger = Ledger()
    story = Story(ledger)
    ledger.open("world", floor=None)
    names = ["a", "b", "c"]
    sent: list[tuple[str, str, str, int]] = []
    posted: list[str] = []
    for name in names:
        ledger.open(name)
        story.pay(ledger, f"fill-{name}", "world", name, 100)
    for number, (kind, first, distance, amount, flag) in enumerate(script):
        source, destination = names[first], names[(first + distance) % 3]
        if kind == "read":
            story.read(ledger, source, by=f"u{number % 2}")
        elif kind == "again" and sent:
            story.pay(ledger, *sent[amount % len(sent)], lost=flag)
        elif kind == "hold":
            asked = {"source": source, "destination": destination, "amount": amount}
            hold = {**asked, "hold": True, "expires_in": 1 + amount % 9}
            posted.append(story.post(ledger, f"k{number}", hold, lost=flag))
        elif kind in ("capture", "void", "reverse", "progress") and any(posted):
            parent = [each for each in posted if each][amount % len([each for each in posted if each])]
            if kind == "progress":
                story.progress(ledger, parent)
                continue
            if (kind == "reverse") == bool(ledger.transfer(parent)["hold"]):
                continue
            asked = {} if kind == "void" or amount % 2 else {"amount": 1 + amount // 9}
            asked |= {"release_rest": False} if kind == "capture" and distance == 2 else {}
            posted.append(story.post(ledger, f"k{number}", asked, f"/v1/transfers/{parent}/{kind}", lost=flag))
        elif kind in ("pay", "again"):
            sent.append((f"k{number}", source, destination, amount))
            story.pay(ledger, *sent[-1], lost=flag)
    return story.end()


# Each example writes a file, and a busy disk must not fail the test.
@settings(deadline=None)
@given(steps)
def test_true_histories_pass(script: list[Step]) -> None:
    """A ledger that keeps its promises has no violations, whatever is lost and repeated."""
    assert check(history(told(script)), CALM).violations == []


def test_the_first_answer_may_have_got_lost() -> None:
    """If the first answer is lost, all others are marked as replayed, and that is no violation."""
    ledger = Ledger()
    story = Story(ledger)
    for name in ("world", "a"):
        ledger.open(name, floor=None)
    for lost in (True, False, False):
        story.pay(ledger, "k1", "world", "a", 5, lost=lost)
    verdict = check(history(story.end()), CALM)
    assert verdict.violations == []
    assert verdict.judged["C4"] == 1


@settings(deadline=None)
@given(steps, st.data())
def test_a_forgotten_transfer_is_always_caught(script: list[Step], data: st.DataObject) -> None:
    """Any acknowledged transfer that is missing in the books is found, even if the books add up."""
    events = told(script)
    # Transfers whose key the books know.
    booked = sorted({entry["key"] for entry in only(events, event="entry")} - {""})
    acknowledged = [key for key in booked if any(o["event"] == "ok" for o in outcomes(events, key=key))]
    drop(events, event="entry", key=data.draw(st.sampled_from(acknowledged)))
    assert "C2" in flagged(check(history(events)))


def test_outcomes() -> None:
    """A problem states the outcome of its request; otherwise the status decides, and 5xx leaves it unknown."""
    assert [
        outcome_of(201, "{}"),
        outcome_of(409, '{"outcome":"refused"}'),
        outcome_of(503, '{"outcome":"not_applied"}'),
        outcome_of(429, "slow down"),
        outcome_of(409, '{"outcome":"unknown"}'),
        outcome_of(503, '{"outcome":"unknown"}'),
        outcome_of(502, "<html>"),
    ] == ["ok", "fail", "fail", "fail", "unknown", "unknown", "unknown"]


def test_a_file_cut_short_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    """A line that a killed client wrote in part is left out, and its request has an unknown outcome."""
    path, left = tmp_path / "history.jsonl", tmp_path / "left.jsonl"
    with Recorder(path) as recorder:
        recorder.invoke("transfer", process="u1", path="/v1/transfers", key="k1", request="{}")
        left.write_text(path.read_text(encoding="utf-8") + '{"event":"ok","op":1,"a', encoding="utf-8")
    (operation,) = load([left]).operations
    assert operation.outcome == "unknown"


@pytest.mark.parametrize(
    "lines",
    [
        ['{"event":"mark","at":1.0,"name":"one"}\n', '{"event":"ok","op":7,"at":1.0,"status":200}\n'],
        ['{"event":"sneeze"}\n'],
        ["not json\n"],
    ],
)
def test_what_is_no_history_is_named(lines: list[str]) -> None:
    with pytest.raises(NotRunError, match=f"history, line {len(lines)}"):
        model.read(History(), lines, "history")


def test_a_full_file_takes_no_more(tmp_path: Path) -> None:
    """A recorder whose file is full raises before a request is sent that it cannot record."""
    with Recorder(tmp_path / "h.jsonl", bytes_max=10) as recorder:
        recorder.invoke("read", process="u1", path="/v1/accounts/a")
        with pytest.raises(HistoryFullError):
            recorder.invoke("read", process="u1", path="/v1/accounts/a")


@pytest.mark.parametrize(
    ("falsify", "code"), [(lambda _: None, 0), (copy_transfer, 1), (without_faults, 0), (lambda e: e.clear(), 2)]
)
def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], falsify: Falsify, code: int) -> None:
    """The exit code of the program says whether the history passes."""
    events = eventful()
    falsify(events)
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) or "nothing\n", encoding="utf-8")
    assert main([str(path)]) == code
    if code == 1:
        assert "k1 was executed 2 times" in capsys.readouterr().out
