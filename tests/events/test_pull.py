"""Pages of events: their content, order, filters and refusals."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.events import pages
from tests.support.client import Client
from tests.support.events import pulled, relaying
from tests.support.service import Service
from tests.support.waiting import until

ENVELOPE = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "position", "data"]
# The events of `story`, in order.
STORY = [
    ("account.created", "world"),
    ("account.created", "alice"),
    ("transfer.posted", "world alice 100"),
    ("transfer.refused", "alice world 900"),
    ("hold.created", "alice world 10"),
    ("hold.captured", "alice world 4"),
    ("hold.created", "alice world 5"),
    ("hold.voided", "alice world 5"),
    ("transfer.reversed", "alice world 40"),
    ("account.updated", "alice"),
    ("account.created", "bob"),
    ("account.closed", "bob"),
]


@pytest.fixture
async def relayed(service: Service) -> AsyncIterator[None]:
    """Run a relay beside the service."""
    async with relaying(service.database_url):
        yield


async def story(client: Client) -> None:
    """Cause one event of every kind but an expiry, and return once all can be read."""
    await client.open("world", floor=None)
    await client.open("alice")
    paid = await client.transfer("world", "alice", 100)
    await client.transfer("alice", "world", 900)
    for amount, last in ((10, "capture"), (5, "void")):
        hold = await client.transfer("alice", "world", amount, hold=True)
        body = {"amount": 4} if last == "capture" else {}
        done = await client.send(
            "POST", f"/v1/transfers/{hold.json['id']}/{last}", body, headers={"Idempotency-Key": last}
        )
        assert done.status == 201
    back = await client.send(
        "POST", f"/v1/transfers/{paid.json['id']}/reverse", {"amount": 40}, headers={"Idempotency-Key": "back"}
    )
    assert back.status == 201
    await client.send("PATCH", "/v1/accounts/alice", {"metadata": {"tier": "gold"}})
    await client.open("bob")
    await client.send("PATCH", "/v1/accounts/bob", {"closed": True})

    async def told() -> bool:
        return len(await pulled(client)) == len(STORY)

    await until(told)


def brief(event: Any) -> tuple[str, str]:
    """Return an event in the form of `STORY`."""
    data = event["data"]
    what = data["id"] if "floor" in data else f"{data['source']} {data['destination']} {data['amount']}"
    return event["type"].removeprefix("tallystick.").removesuffix(".v1"), what


async def test_a_page_shows_what_happened(client: Client, relayed: None, ledger: str) -> None:
    """Events have positions 1, 2, 3 and CloudEvents envelopes; each page says where the next one begins."""
    await story(client)
    events = await pulled(client, "&limit=5")
    assert [brief(event) for event in events] == STORY
    assert [event["position"] for event in events] == list(range(1, len(STORY) + 1))
    for event in events:
        assert list(event) == ENVELOPE
        assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
        assert (event["id"], event["source"]) == (f"{ledger}/{event['position']}", f"/ledgers/{ledger}")
        assert event["subject"] == event["data"]["id"]
    transfer = events[2]["data"]
    assert transfer == (await client.get(f"/v1/transfers/{transfer['id']}")).json | {"reversed": 0}
    assert events[2]["time"] == transfer["created_at"]
    assert events[9]["data"] == await client.account("alice")
    page = (await client.get("/v1/events?after=4&limit=5")).json
    assert ([event["position"] for event in page["data"]], page["next_after"]) == ([5, 6, 7, 8, 9], 9)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("type=transfer.posted", [3], id="a type"),
        pytest.param("type=hold.created,hold.voided", [5, 7, 8], id="several types"),
        pytest.param("type=hold.expired", [], id="a type that never was"),
        pytest.param("account=bob", [11, 12], id="an account"),
        pytest.param("account=world", [1, 3, 4, 5, 6, 7, 8, 9], id="an account on either side, refusals too"),
        pytest.param("account=nobody", [], id="an account that never was"),
        pytest.param("account=alice&type=account.updated,transfer.refused", [4, 10], id="both"),
        pytest.param("account=bob&type=transfer.posted", [], id="both, and nothing has both"),
        pytest.param("account=alice&after=9", [10], id="behind a position"),
    ],
)
async def test_what_is_asked_for(client: Client, relayed: None, query: str, expected: list[int]) -> None:
    """Events match all filters, and reading on ends at the head even if nothing matched."""
    await story(client)
    asked = "&" + query.replace("&after=9", "")
    for limit in (20, 1):
        answer = await client.get(f"/v1/events?{query}&limit={limit}")
        found = [event["position"] for event in answer.json["data"]]
        assert found == expected[:limit]
        rest = await pulled(client, asked, answer.json["next_after"])
        assert found + [event["position"] for event in rest] == expected
        if not expected:
            assert answer.json["next_after"] == len(STORY)


@pytest.mark.parametrize(
    ("query", "outcome"),
    [
        pytest.param("after=-1", (400, "invalid_request", "after"), id="no position"),
        pytest.param("after=9223372036854775808", (400, "invalid_request", "after"), id="past 64 bits"),
        pytest.param("type=transfer", (400, "invalid_request", "type"), id="no type"),
        pytest.param("type=transfer.posted,", (400, "invalid_request", "type"), id="an empty type"),
        pytest.param("after=1", (409, "position_not_reached", None), id="past the head"),
        pytest.param("after=9223372036854775807", (409, "position_not_reached", None), id="far past the head"),
        pytest.param("after=1&account=alice", (409, "position_not_reached", None), id="past the head of an account"),
        pytest.param("after=1&type=hold.created", (409, "position_not_reached", None), id="past the head of a type"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/stream"])
async def test_refused(client: Client, path: str, query: str, outcome: tuple[int, str, str | None]) -> None:
    """An invalid request is refused at once; a stream is refused before it begins."""
    answer = await client.get(f"{path}?{query}")
    errors = answer.json.get("errors", [{"pointer": None}])
    assert (answer.status, answer.code, errors[0]["pointer"]) == outcome


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "wait=31", "wait=0.5", "wait=-1"])
async def test_bounds_of_a_page(client: Client, query: str) -> None:
    """A page has 1 to 100 events, and waits up to 30 seconds."""
    answer = await client.get(f"/v1/events?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")


async def test_amounts_are_strings_where_that_is_asked_for(client: Client, relayed: None) -> None:
    """Amounts in events are strings on request; positions stay numbers."""
    await story(client)
    answer = await client.get("/v1/events?after=2&limit=1", Accept="application/json; amounts=string")
    (event,) = answer.json["data"]
    assert (event["data"]["amount"], event["position"], answer.json["next_after"]) == ("100", 3, 3)


async def test_large_events_make_a_page_short(client: Client, relayed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends before it is too large, but has at least one event, and the next page continues there."""
    await story(client)
    monkeypatch.setattr(pages, "PAGE_BYTES_MAX", 1_000)
    answer = await client.get("/v1/events")
    assert 1 <= len(answer.json["data"]) < 4
    monkeypatch.setattr(pages, "PAGE_BYTES_MAX", 1)
    assert [brief(event) for event in await pulled(client)] == STORY


async def test_ledgers_have_feeds_of_their_own(client: Client, service: Service, relayed: None, ledger: str) -> None:
    """Another ledger's events take no position in this one, and its keys cannot read this one."""
    await story(client)
    stranger = await service.client(f"{ledger}-stranger")
    assert (await stranger.get("/v1/events")).json == {"data": [], "next_after": 0}
    await stranger.open("alice")

    async def told() -> bool:
        return [event["position"] for event in await pulled(stranger)] == [1]

    await until(told)
    assert len(await pulled(client, "&account=alice")) == sum("alice" in what for _, what in STORY)
