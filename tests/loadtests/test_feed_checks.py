"""Each check of the feed passes a true feed, and catches the falsified feeds that it should."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from loadtests.history.checks import check
from loadtests.history.feed import BROKERS, FEED_CHECKS, READERS
from tests.loadtests.stories import Event, eventful, flagged, history, told

Feed = list[tuple[str, str, Event]]
Falsify = Callable[[list[Event]], object]


def to_all(change: Callable[[Feed], object]) -> Falsify:
    """Return a function that changes the feed of a ledger for all its readers."""

    def falsify(events: list[Event]) -> None:
        mine = [event for event in events if event["event"] == "told" and event["ledger"] == "main"]
        feed = [(e["type"], e["subject"], json.loads(e["data"])) for e in mine if e["reader"] == READERS[0]]
        change(feed)
        for event in mine:
            events.remove(event)
        events += told("main", feed)

    return falsify


def to_one(reader: str, change: Callable[[list[Event]], object]) -> Falsify:
    """Return a function that changes what one reader of a ledger wrote down."""

    def falsify(events: list[Event]) -> None:
        mine = [event for event in events if (event.get("reader"), event.get("ledger")) == (reader, "main")]
        for event in mine:
            events.remove(event)
        change(mine)
        events += mine

    return falsify


def place(feed: Feed, kind: str) -> int:
    """Return the position of the last event of a type."""
    return max(number for number, event in enumerate(feed) if event[0] == kind)


def change(kind: str, **fields: Any) -> Falsify:
    """Return a function that changes the data of the last event of a type."""
    return to_all(lambda feed: feed[place(feed, kind)][2].update(fields))


def swap(events: list[Any], first: int, second: int) -> None:
    events[first], events[second] = events[second], events[first]


def swap_posts(feed: Feed) -> None:
    """Swap two payments between the same accounts."""
    pair = ("a", "b")
    first, second = [n for n, e in enumerate(feed) if (e[2].get("source"), e[2].get("destination")) == pair][:2]
    swap(feed, first, second)


def add_uncommitted(events: list[Event]) -> None:
    """Add an event that is not in the ledger."""
    last = max(event["position"] for event in events)
    events.append({**events[-1], "position": last + 1})


def key_of(event: Event) -> str:
    """Return the account by which a broker orders an event."""
    data = json.loads(event["data"])
    return str(data.get("source") or data.get("id"))


def swap_of_account(events: list[Event]) -> None:
    """Put the last event of an account before the one that precedes it."""
    first, second = [n for n, event in enumerate(events) if key_of(event) == key_of(events[-1])][-2:]
    swap(events, first, second)


def retype(feed: Feed) -> None:
    """Give a void the type of a capture."""
    number = place(feed, "hold.voided")
    feed[number] = ("hold.captured", *feed[number][1:])


FALSIFIED: list[tuple[str, str, Falsify]] = [
    ("F1", "an event that one reader misses", to_one("poll", lambda events: events.pop(4))),
    ("F1", "the last event, which one reader misses", to_one("stream", lambda events: events.pop())),
    ("F1", "a reader that is told nothing of a ledger", to_one("stream", lambda events: events.clear())),
    ("F1", "an event that a reader is told twice", to_one("stream", lambda events: events.insert(5, events[4]))),
    ("F1", "two events in the wrong order", to_one("poll", lambda events: swap(events, 4, 5))),
    ("F1", "a position that is left out", to_one("poll", lambda events: events[4].update(position=99))),
    ("F1", "an event that is another one for one reader", to_one("stream", lambda events: events[4].update(data="{}"))),
    ("F1", "an event that the webhook misses", to_one("webhook", lambda events: events.pop(4))),
    ("F1", "an event that Kafka misses", to_one("kafka", lambda events: events.pop(4))),
    ("F1", "the last event, which RabbitMQ misses", to_one("rabbitmq", lambda events: events.pop())),
    ("F1", "an event at Kafka that did not commit", to_one("kafka", add_uncommitted)),
    ("F1", "an event that is another one at RabbitMQ", to_one("rabbitmq", lambda told: told[4].update(data="{}"))),
    ("F4", "events of an account in the wrong order at Kafka", to_one("kafka", swap_of_account)),
    ("F4", "events of an account in the wrong order at RabbitMQ", to_one("rabbitmq", swap_of_account)),
    ("F2", "a payment that is missing", to_all(lambda feed: feed.pop(place(feed, "transfer.posted")))),
    ("F2", "an expiry that is missing", to_all(lambda feed: feed.pop(place(feed, "hold.expired")))),
    ("F2", "a change of an account that is missing", to_all(lambda feed: feed.pop(place(feed, "hold.created")))),
    ("F2", "a payment that is told twice", to_all(lambda feed: feed.append(feed[place(feed, "transfer.posted")]))),
    ("F2", "payments of an account in the wrong order", to_all(swap_posts)),
    ("F2", "an account before it was opened", to_all(lambda feed: swap(feed, 1, place(feed, "transfer.posted")))),
    (
        "F2",
        "a payment that did not commit",
        to_all(lambda feed: feed.append(("transfer.posted", "main-99", feed[place(feed, "transfer.posted")][2]))),
    ),
    ("F2", "another amount", change("transfer.posted", amount=77)),
    ("F2", "another balance", change("transfer.posted", source_balance=77)),
    ("F2", "another hold", change("hold.created", amount=77)),
    ("F2", "another kind of event", to_all(retype)),
    ("F3", "another state", change("transfer.posted", state="pending")),
    ("F3", "a refusal that is missing", to_all(lambda feed: feed.pop(place(feed[:20], "transfer.refused")))),
    (
        "F3",
        "a refusal that is told twice",
        to_all(lambda feed: feed.append(feed[place(feed[:20], "transfer.refused")])),
    ),
    (
        "F3",
        "a refusal of what was posted",
        to_all(lambda feed: feed.append(("transfer.refused", "main-99", {"reference": "k1"}))),
    ),
]


def test_a_true_feed_passes() -> None:
    """
    Repeated events pass for webhooks and brokers, as do late ones for webhooks and a different order of accounts for
    brokers.
    """
    events = eventful()
    for broker in BROKERS:
        to_one(broker, lambda told: told.append(told[5]))(events)
        to_one(broker, lambda told: told.sort(key=lambda event: (key_of(event), event["position"])))(events)
    to_one("webhook", lambda told: told.append(told.pop(3)))(events)
    to_one("webhook", lambda told: told.append(told[5]))(events)
    verdict = check(history(events), FEED_CHECKS)
    assert verdict.violations == []
    assert all(verdict.judged[name] for name in FEED_CHECKS)


@pytest.mark.parametrize(("name", "falsify"), [pytest.param(c, f, id=f"{c} {what}") for c, what, f in FALSIFIED])
def test_a_falsified_feed_is_caught(name: str, falsify: Falsify) -> None:
    """The named check is among those that find a violation."""
    events = eventful()
    falsify(events)
    assert name in flagged(check(history(events), FEED_CHECKS))
