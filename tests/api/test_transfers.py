"""Finding transfers: one by its id, many by reference and account."""

import time
from uuid import UUID, uuid4

import pytest

from tests.api.steps import bulk, order, pages, post
from tests.support.client import Client


@pytest.fixture
async def books(client: Client) -> Client:
    """A client in whose ledger alice was given 100, and bob and carol have nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    await client.open("carol")
    return client


async def listed(client: Client, query: str, limit: int = 100) -> list[str]:
    """Return the ids of all pages of a list."""
    return [row["id"] for page in await pages(client, f"/v1/transfers?{query}", limit) for row in page]


async def test_ids_are_uuids_of_version_7(books: Client) -> None:
    """A transfer's id is a UUIDv7: it carries the time of its creation, and ids rise."""
    before = time.time_ns() // 1_000_000
    ids = [UUID((await books.transfer("alice", "bob", 1)).json["id"]) for _ in range(10)]
    ids += [UUID(r["transfer"]["id"]) for r in await bulk(books, [{"key": str(n), **order()} for n in range(5)])]
    after = time.time_ns() // 1_000_000
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    assert ids == sorted(ids)
    assert len(set(ids)) == 15
    assert all(before <= one.int >> 80 <= after for one in ids)


async def test_a_transfer_can_be_read(books: Client) -> None:
    """A read returns the first answer, with its hold and what was reversed since; other transfers do not change it."""
    posted = await post(books, order(reference="r", description="d", metadata={"k": "v"}), "key")
    path = f"/v1/transfers/{posted.json['id']}"
    first = await books.get(path)
    assert (first.status, first.json) == (200, {**posted.json, "hold": None, "reversed": 0})
    await books.transfer("alice", "bob", 1)
    assert (await books.get(path)).body == first.body


async def test_a_refused_attempt_can_be_read(books: Client) -> None:
    """A refused attempt can be read with its reason, and is in no list."""
    refused = await post(books, order(amount=101, reference="too much"), "key")
    attempt_id = (await books.get("/v1/idempotency-keys/key")).json["id"]
    read = (await books.get(f"/v1/transfers/{attempt_id}")).json
    assert (read["state"], read["problem"], read["source_balance"]) == ("refused", refused.json, None)
    assert await listed(books, "reference=too%20much") == []
    assert attempt_id not in await listed(books, "")
    assert attempt_id not in await listed(books, "account=alice")


@pytest.mark.parametrize(
    "path", [str(UUID(int=0)), "nothing", "bulk", "%ff", "a" * 65, f"{UUID(int=7)}%00", "00000000-0000-0000-0000"]
)
async def test_what_is_no_transfer_is_not_found(books: Client, path: str) -> None:
    """An id that names no transfer, or cannot be one, is a 404."""
    answer = await books.get(f"/v1/transfers/{path}")
    assert (answer.status, answer.code) == (404, "transfer_not_found")
    assert (await books.get(f"/v1/transfers/{uuid4()}")).code == "transfer_not_found"


async def test_transfers_are_found_by_reference_and_account(books: Client) -> None:
    """The list can be filtered by reference, by account on either side, or by both, newest first."""
    ids = {}
    for name, (source, destination, reference) in {
        "ab-x": ("alice", "bob", "x"),
        "ba-x": ("bob", "alice", "x"),
        "ac-y": ("alice", "carol", "y"),
        "ac": ("alice", "carol", None),
        "cb-x": ("carol", "bob", "x"),
    }.items():
        ids[name] = (await books.transfer(source, destination, 1, reference=reference)).json["id"]
    names = {identifier: name for name, identifier in ids.items()}

    async def found(query: str) -> list[str]:
        return [names.get(one, "funding") for one in await listed(books, query)]

    assert await found("") == ["cb-x", "ac", "ac-y", "ba-x", "ab-x", "funding"]
    assert await found("reference=x") == ["cb-x", "ba-x", "ab-x"]
    assert await found("account=alice") == ["ac", "ac-y", "ba-x", "ab-x", "funding"]
    assert await found("account=carol") == ["cb-x", "ac", "ac-y"]
    assert await found("reference=x&account=carol") == ["cb-x"]
    assert await found("account=bob&reference=x") == ["cb-x", "ba-x", "ab-x"]
    for nothing in ("reference=X", "account=nobody", "reference=y&account=bob"):
        assert await found(nothing) == [], nothing


async def test_a_list_has_the_transfers_as_they_were_answered(books: Client) -> None:
    """A row of the list equals the transfer's first answer."""
    posted = await books.transfer("alice", "bob", 1, reference="ü & co", metadata={"b": "1", "a": "2"})
    for query in ("reference=%C3%BC%20%26%20co", "reference=%C3%BC+%26+co", "account=bob", "limit=1"):
        rows = (await books.get(f"/v1/transfers?{query}")).json["data"]
        assert rows == [posted.json], query


@pytest.mark.parametrize("query", ["", "reference=r", "account=bob", "reference=r&account=bob"])
@pytest.mark.parametrize("limit", [1, 3, 6, 7])
async def test_pages_hold_every_transfer_once(books: Client, query: str, limit: int) -> None:
    """Following the cursors shows every transfer once, newest first, even if rows share an instant and accounts."""
    legs = [order("alice", "bob", 2), order("bob", "alice", 1)] * 3
    results = await bulk(books, [{"key": str(n), "reference": "r", **leg} for n, leg in enumerate(legs)])
    ids = [result["transfer"]["id"] for result in results][::-1]
    found = await pages(books, f"/v1/transfers?{query}", limit)
    rows = [row["id"] for page in found for row in page]
    assert rows[:6] == ids
    assert len(rows) == (7 if query == "" else 6)
    assert all(len(page) == limit for page in found[:-1])


@pytest.mark.parametrize("query", ["", "reference=r", "account=bob", "reference=r&account=bob"])
async def test_a_cursor_stays_valid_while_transfers_are_added(books: Client, query: str) -> None:
    """Transfers posted between two pages do not move those still to be shown."""
    ids = [(await books.transfer("alice", "bob", 1, reference="r")).json["id"] for _ in range(4)][::-1]
    path = f"/v1/transfers?{query}&limit=" if query else "/v1/transfers?limit="
    first = (await books.get(f"{path}2")).json
    await books.transfer("alice", "bob", 1, reference="r")
    second = (await books.get(f"{path}100&cursor={first['next_cursor']}")).json
    assert [row["id"] for row in (first["data"] + second["data"])[:4]] == ids


async def test_a_page_has_twenty_transfers_unless_told_otherwise(books: Client) -> None:
    """Of 22 transfers the first page shows 20, and its cursor leads to the rest."""
    await bulk(books, [{"key": str(n), **order(amount=1)} for n in range(21)])
    first = (await books.get("/v1/transfers")).json
    assert len(first["data"]) == 20
    second = (await books.get(f"/v1/transfers?cursor={first['next_cursor']}")).json
    assert (len(second["data"]), second["next_cursor"]) == (2, None)


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "limit=1.5", "limit=%D9%A1", "cursor=x", "source=alice", "reference=a&reference=b"),
        *("reference=" + "r" * 256, "reference=%00", "account=a%00", "reference=%ff", "reference", "account=%ED%A0%80"),
    ],
)
async def test_a_wrong_list_query_is_refused(books: Client, query: str) -> None:
    """A parameter that is out of bounds, unknown, repeated or not text is a 400."""
    answer = await books.get(f"/v1/transfers?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")
