"""Lists of transfers by kind, instants and metadata: which rows they have, and how many one page examines."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg
import pytest

from server.http.parameters import METADATA_ENTRIES_MAX
from server.ledger import transfer_lists
from server.ledger.transfer_lists import EXAMINED_MAX, KINDS
from tests.api.steps import bulk, order, pages
from tests.support.client import Answer, Client, new_key
from tests.support.service import Service

# Inserts a row of a kind, as if it had been posted between two accounts.
_POSTED = """
    INSERT INTO tallystick.transfers (ledger_id, amount, source_balance, destination_balance, source_version,
        destination_version, created_at, id, moves, held, idempotency_key, fingerprint, kind, source, destination,
        currency, reference, metadata)
    SELECT l.id, 1, 0, 0, 1, 1, $2, uuidv7(), $3 IN ('transfer', 'capture', 'reversal'), 0, gen_random_uuid()::text,
        sha256('x'), $3, 'alice', 'bob', 'EUR', $4, $5::json
    FROM tallystick.ledgers AS l WHERE l.name = $1
    RETURNING id
"""
BEGINNING = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Books:
    """A ledger that a test fills with transfers, and a client that reads it."""

    def __init__(self, client: Client, connection: asyncpg.Connection, ledger: str) -> None:
        self.client = client
        self._connection = connection
        self._ledger = ledger
        self._count = 0

    async def put(self, kind: str, reference: str | None = None, metadata: str = "{}") -> str:
        """Insert a row, one second after the last one, and return its id."""
        at = BEGINNING + self._count * SECOND
        self._count += 1
        return str(await self._connection.fetchval(_POSTED, self._ledger, at, kind, reference, metadata))

    async def found(self, chosen: Mapping[str, str], limit: int = 100) -> list[str]:
        """Return the ids of all pages of a list."""
        path = "/v1/transfers?" + urlencode(chosen)
        return [row["id"] for page in await pages(self.client, path, limit) for row in page]


@pytest.fixture
async def books(service: Service, client: Client, ledger: str) -> Any:
    """A ledger with two accounts, without a transfer."""
    for account in ("alice", "bob"):
        await client.open(account)
    connection = await asyncpg.connect(service.database_url)
    yield Books(client, connection, ledger)
    await connection.close()


CHOSEN: list[dict[str, str]] = [
    {},
    {"account": "alice"},
    {"account": "bob"},
    {"reference": "r"},
    {"reference": "r", "account": "bob"},
]


@pytest.mark.parametrize("chosen", CHOSEN, ids=str)
async def test_lists_by_kind(books: Books, chosen: dict[str, str]) -> None:
    """The list has every kind in the order of posting, or only the kind that is asked for."""
    ids = {kind: await books.put(kind, "r") for kind in (*KINDS, *KINDS[::-1])}
    every = await books.found(chosen)
    assert len(every) == 2 * len(KINDS)
    assert every[: len(KINDS)] == [ids[kind] for kind in KINDS]
    for kind in KINDS:
        assert await books.found({"kind": kind, **chosen}) == [ids[kind], every[-1 - KINDS.index(kind)]]
        for limit in (1, 5):
            assert await books.found(chosen, limit) == every


async def test_kinds_are_listed_as_they_were_answered(client: Client) -> None:
    """Posted transfers are found by the kind in their answer, and listed with the bytes of that answer."""
    await client.fund("alice", 100)
    await client.open("bob")

    async def post(path: str, body: object) -> Answer:
        answer = await client.send("POST", path, body, headers={"Idempotency-Key": new_key()})
        assert answer.status == 201, answer
        return answer

    moved = await post("/v1/transfers", order(metadata={"shop": "7"}))
    hold = await post("/v1/transfers", order(hold=True, metadata={"shop": "7"}))
    path = f"/v1/transfers/{hold.json['id']}"
    captured = await post(f"{path}/capture", {"amount": 4, "release_rest": False})
    voided = await post(f"{path}/void", {})
    taken_back = await post(f"/v1/transfers/{moved.json['id']}/reverse", {"amount": 3})
    posted = {"transfer": moved, "hold": hold, "capture": captured, "void": voided, "reversal": taken_back}
    for kind, answer in posted.items():
        assert answer.json["kind"] == kind
        listed = await client.get(f"/v1/transfers?kind={kind}&account=bob")
        assert listed.body == b'{"data":[' + answer.body + b'],"next_cursor":null}'
    every = (await client.get("/v1/transfers?account=bob")).json["data"]
    assert [row["kind"] for row in every] == list(posted)[::-1]
    assert [row["kind"] for row in (await client.get("/v1/transfers?limit=3")).json["data"]] == [
        *("reversal", "void", "capture"),
    ]
    strings = await client.get("/v1/transfers?kind=capture", Accept="application/json; amounts=string")
    assert strings.json["data"][0]["amount"] == "4"
    now = await client.get(path, Accept="application/json; amounts=string")
    assert (now.json["hold"]["captured"], now.json["hold"]["remaining"], now.json["reversed"]) == ("4", "0", "0")


@pytest.mark.parametrize("chosen", [{}, {"account": "alice"}, {"reference": "r"}], ids=str)
async def test_lists_of_a_time(books: Books, chosen: dict[str, str]) -> None:
    """`from` is included and `to` is not, to the microsecond."""
    ids = [await books.put(kind, "r") for kind in ("transfer", "hold", "capture", "void")]

    async def between(since: timedelta | None, until: timedelta | None) -> list[str]:
        given = {name: (BEGINNING + at).isoformat() for name, at in (("from", since), ("to", until)) if at is not None}
        return await books.found({**chosen, **given}, 1)

    tick = timedelta(microseconds=1)
    assert await between(None, None) == ids[::-1]
    assert await between(SECOND, 3 * SECOND) == [ids[2], ids[1]]
    assert await between(SECOND + tick, 3 * SECOND + tick) == [ids[3], ids[2]]
    assert await between(None, SECOND) == [ids[0]]
    assert await between(3 * SECOND, None) == [ids[3]]
    for nothing in ((SECOND, SECOND), (2 * SECOND, SECOND), (4 * SECOND, None), (None, timedelta())):
        assert await between(*nothing) == []


async def test_lists_by_metadata(books: Books) -> None:
    """A row must have every requested metadata entry, and may have more; values are compared exactly, as text."""
    shops = [
        await books.put("transfer", "r", f'{{"shop":"{n}","order id":"50%","ü&=":"+ \\"x\\"","n":"7"}}') for n in "78"
    ]
    bare = await books.put("hold", "r")
    nested = await books.put("transfer", None, json.dumps({"shop": '{"shop":"7"}'}))
    assert await books.found({}) == [nested, bare, *shops[::-1]]
    assert await books.found({"metadata.shop": "7"}) == [shops[0]]
    assert await books.found({"metadata.order id": "50%"}) == shops[::-1]
    assert await books.found({"metadata.ü&=": '+ "x"'}) == shops[::-1]
    assert await books.found({"metadata.shop": '{"shop":"7"}'}) == [nested]
    assert await books.found({"metadata.shop": "8", "metadata.n": "7"}) == [shops[1]]
    assert await books.found({"metadata.shop": "8", "metadata.n": "8"}) == []
    for name, text in (("shop", "07"), ("Shop", "7"), ("shop", "7 "), ("nothing", "7"), ("shop.x", "7"), ("n", "7.0")):
        assert await books.found({f"metadata.{name}": text}) == [], name
    for chosen in CHOSEN[1:]:
        assert await books.found({"metadata.shop": "7", "kind": "transfer", **chosen}) == [shops[0]]
        assert await books.found({"metadata.shop": "7", "kind": "capture", **chosen}) == []


async def test_a_name_is_escaped_as_others_are(books: Books) -> None:
    """A space in a metadata key may be written as %20 or as a plus sign, and the point may be escaped too."""
    identifier = await books.put("transfer", None, '{"order id":"7"}')
    for query in ("metadata.order%20id=7", "metadata.order+id=7", "metadata%2Eorder%20id=%37"):
        rows = (await books.client.get(f"/v1/transfers?{query}")).json["data"]
        assert [row["id"] for row in rows] == [identifier], query


@pytest.mark.parametrize("chosen", CHOSEN, ids=str)
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_a_page_looks_at_so_many_rows(
    books: Books, chosen: dict[str, str], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends once it has examined the most rows allowed; following the cursors finds every match once."""
    monkeypatch.setattr(transfer_lists, "EXAMINED_MAX", 3)
    matches = []
    for number in range(20):
        rare = number in (1, 7, 8, 9, 19)
        kind = KINDS[number % len(KINDS)] if not rare else "transfer"
        identifier = await books.put(kind, "r", '{"rare":"yes"}' if rare else "{}")
        if rare:
            matches.append(identifier)
    path = "/v1/transfers?" + urlencode({**chosen, "metadata.rare": "yes"})
    found = await pages(books.client, path, limit)
    assert [row["id"] for page in found for row in page] == matches[::-1]
    assert max(map(len, found)) <= limit
    assert [] in found, "three rows in a row match nothing"
    assert len(found) <= 20 // 3 + 1 + (len(matches) if limit < 3 else 0)


async def test_a_list_that_ends_where_a_page_does(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the list ends exactly where a page does, the next page is empty and has no cursor."""
    monkeypatch.setattr(transfer_lists, "EXAMINED_MAX", 3)
    ids = [await books.put("transfer", None, '{"a":"b"}') for _ in range(3)]
    assert [[row["id"] for row in page] for page in await pages(books.client, "/v1/transfers?metadata.a=b", 3)] == [
        ids[::-1],
        [],
    ]
    assert await pages(books.client, "/v1/transfers?kind=hold", 3) == [[]]


async def test_rows_of_one_instant_come_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that end within a bulk, whose rows share an instant, lose none of them."""
    await books.client.open("world", floor=None)
    monkeypatch.setattr(transfer_lists, "EXAMINED_MAX", 4)
    items = [
        {"key": str(n), "metadata": {"third": str(n % 3)}, "reference": "r", **order("world", "alice", 1)}
        for n in range(30)
    ]
    ids = [result["transfer"]["id"] for result in await bulk(books.client, items, atomic=True)]
    for chosen in ({}, {"account": "alice"}, {"account": "world"}, {"reference": "r"}):
        for limit in (1, 3, 100):
            assert await books.found({"metadata.third": "1", **chosen}, limit) == ids[1::3][::-1]


async def test_pages_while_transfers_are_added(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that existed before are shown once each, even if transfers are posted between two pages."""
    client = books.client
    await client.open("world", floor=None)
    monkeypatch.setattr(transfer_lists, "EXAMINED_MAX", 5)

    async def add(number: int) -> str:
        metadata = {"rare": "yes"} if number % 4 == 0 else {}
        answer = await client.transfer("world", "alice", 1, metadata=metadata)
        assert answer.status == 201
        return str(answer.json["id"])

    ids = [await add(number) for number in range(40)]
    seen: list[str] = []
    cursor, added = "", 0
    while True:
        page = (await client.get(f"/v1/transfers?account=alice&metadata.rare=yes&limit=2{cursor}")).json
        seen += [row["id"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = "&cursor=" + page["next_cursor"]
        await asyncio.gather(*(add(added + n) for n in range(3)))
        added += 3
    assert seen == ids[::4][::-1]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("kind=Hold", "kind"),
        ("kind=holds", "kind"),
        ("kind=hold&kind=void", "kind"),
        ("from=yesterday", "from"),
        ("to=2026-01-31T12:00:00", "to"),
        ("from=2026-01-31T12:00:00+02:00", "from"),
        ("metadata.=1", "metadata.<key>"),
        ("metadata." + "k" * 41 + "=1", "metadata.<key>"),
        ("metadata.a=" + "v" * 501, "metadata.a"),
        ("metadata.a=1&metadata.a=1", "metadata.a"),
        ("metadata.a%20b=1&metadata.a+b=2", "metadata.a b"),
        ("metadata.a=", "metadata.a"),
        ("metadata.a=%00", "metadata.a"),
        ("metadata.a%00b=1", "metadata.a\x00b"),
        ("&".join(f"metadata.{n}=x" for n in range(METADATA_ENTRIES_MAX + 1)), "metadata.<key>"),
    ],
)
async def test_a_wrong_choice_is_pointed_at(client: Client, query: str, pointer: str) -> None:
    """An invalid filter is a 400 that names the parameter."""
    answer = await client.get(f"/v1/transfers?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


@pytest.mark.parametrize("query", ["metadata=1", "metadata%00=1", "metadatax=1", "metadata.%ff=1", "from", "until=1"])
async def test_what_is_no_parameter_is_refused(client: Client, query: str) -> None:
    """A parameter that is unknown or not UTF-8 is a 400."""
    answer = await client.get(f"/v1/transfers?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")


async def test_as_much_as_one_may_ask_for(client: Client) -> None:
    """Keys and values of full length, and the most entries allowed, are accepted; a key is never run as code."""
    entries = {f"metadata.{number}{'€' * 39}": "€" * 70 for number in range(METADATA_ENTRIES_MAX)}
    for chosen in (
        entries,
        {"metadata.$.a[0] ? (@ == 1)": "'; --"},
        {"metadata.<key>": "{}"},
        {"metadata.a": "v" * 500},
    ):
        answer = await client.get("/v1/transfers?" + urlencode(chosen, quote_via=quote))
        assert (answer.status, answer.json) == (200, {"data": [], "next_cursor": None})


def test_the_bound_is_that_of_the_docs() -> None:
    """docs/reference/requests.md says how many rows a page examines."""
    assert (
        f"{EXAMINED_MAX:,} transfers" in (Path(__file__).parents[2] / "docs" / "reference" / "requests.md").read_text()
    )
