"""Entries and balances of the past: what happened to an account, line by line."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations, pairwise
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.steps import bulk, codes, order, pages
from tests.support.client import Answer, Client


@pytest.fixture
async def books(client: Client) -> Client:
    """A client in whose ledger alice was given 100 and bob has nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


async def entries(client: Client, account: str = "alice", query: str = "limit=100") -> list[Any]:
    """Return one page of a statement."""
    answer = await client.get(f"/v1/accounts/{account}/entries?{query}")
    assert answer.status == 200, answer
    rows: list[Any] = answer.json["data"]
    return rows


async def balance_at(client: Client, at: str, account: str = "alice") -> Answer:
    """Ask for the balance at an instant."""
    return await client.get(f"/v1/accounts/{account}/balance?at={quote(at)}")


def shifted(instant: str, microseconds: int) -> str:
    """Return an instant a little earlier or later."""
    at = datetime.fromisoformat(instant) + timedelta(microseconds=microseconds)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


async def test_a_line_says_what_a_transfer_did(books: Client) -> None:
    """Both accounts of a transfer get an entry: signed amount, counterparty, and the balance and version after it."""
    transfer = (await books.transfer("alice", "bob", 30, reference="invoice 7")).json
    common = {
        "transfer_id": transfer["id"],
        "kind": "transfer",
        "reference": "invoice 7",
        "created_at": transfer["created_at"],
    }
    assert (await entries(books, "alice"))[0] == {
        **common,
        "amount": -30,
        "counterparty": "bob",
        "balance": 70,
        "version": 3,
    }
    assert await entries(books, "bob") == [
        {**common, "amount": 30, "counterparty": "alice", "balance": 30, "version": 2}
    ]


async def test_only_money_that_moved_is_on_the_statement(books: Client) -> None:
    """Refusals, replays and changes of the account leave no entry."""
    await books.transfer("alice", "bob", 1_000)
    await books.transfer("alice", "bob", 5, "once")
    await books.transfer("alice", "bob", 5, "once")
    await books.send("PATCH", "/v1/accounts/alice", {"floor": -1})
    assert [row["amount"] for row in await entries(books)] == [-5, 100]


async def test_a_statement_adds_up(books: Client) -> None:
    """Entries come newest first, without gaps in the versions, and each balance is the sum of all amounts up to it."""
    for number in range(1, 15):
        await books.transfer("alice", "bob", number % 7 + 1)
        await books.transfer("bob", "alice", 1)
    found = await pages(books, "/v1/accounts/alice/entries", 7)
    rows = [row for page in found for row in page][::-1]
    assert [len(page) for page in found] == [7, 7, 7, 7, 1]
    total = 0
    for version, row in enumerate(rows, start=2):
        total += row["amount"]
        assert (row["balance"], row["version"]) == (total, version)
    assert total == await books.balance("alice")
    assert rows == sorted(rows, key=lambda row: row["created_at"])


async def test_a_page_has_twenty_lines_unless_told_otherwise(books: Client) -> None:
    """Of 21 entries the first page shows 20, and the cursor leads to the last."""
    await bulk(books, [{"key": str(n), **order(amount=1)} for n in range(20)])
    first = (await books.get("/v1/accounts/alice/entries")).json
    assert [row["version"] for row in first["data"]] == list(range(22, 2, -1))
    last = (await books.get(f"/v1/accounts/alice/entries?cursor={first['next_cursor']}")).json
    assert ([row["version"] for row in last["data"]], last["next_cursor"]) == ([2], None)


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_lines_of_one_instant_keep_their_order(books: Client, atomic: bool, limit: int) -> None:
    """Entries of one bulk share their instant and are ordered by version, across pages and for both accounts."""
    legs = [order(amount=10), order("bob", "alice", 3), order("bob", "alice", 4), order(amount=1)]
    results = await bulk(books, [{"key": str(n), **leg} for n, leg in enumerate(legs)], atomic=atomic)
    assert len({result["transfer"]["created_at"] for result in results}) == 1
    for account, sign in (("alice", -1), ("bob", 1)):
        found = await pages(books, f"/v1/accounts/{account}/entries", limit)
        rows = [row for page in found for row in page][:4]
        assert [row["amount"] * sign for row in rows] == [1, -4, -3, 10]
        first = 6 if account == "alice" else 5
        assert [row["version"] for row in rows] == list(range(first, first - 4, -1))


async def test_a_long_statement_is_whole_from_any_place(books: Client) -> None:
    """In a long statement of bulks and single transfers every page and every balance is consistent."""
    for number in range(12):
        legs = [order(amount=2), order("bob", "alice", 1), order("bob", "carol", 1)]
        await books.open("carol")
        await bulk(books, [{"key": f"{number}-{n}", **legs[n % 3]} for n in range(number % 4 * 9 + 3)])
        await books.transfer("alice", "bob", 1)
    for account in ("alice", "bob", "carol"):
        path = f"/v1/accounts/{account}/entries"
        rows = [row for page in await pages(books, path, 100) for row in page]
        assert [row["balance"] for row in rows] == [sum(row["amount"] for row in rows[n:]) for n in range(len(rows))]
        assert [row for page in await pages(books, path, 7) for row in page] == rows
        listed = [row["id"] for page in await pages(books, f"/v1/transfers?account={account}", 7) for row in page]
        assert listed == [row["transfer_id"] for row in sorted(rows, key=in_the_order_of_lists, reverse=True)]
        for end in sorted({row["created_at"] for row in rows}):
            before = [row for row in rows if row["created_at"] < end]
            assert await entries(books, account, f"limit=100&to={quote(end)}") == before[:100]
            newest = next(row for row in rows if row["created_at"] <= end)
            assert (await balance_at(books, end, account)).json["version"] == newest["version"]
            assert (await balance_at(books, end, account)).json["balance"] == newest["balance"]


def in_the_order_of_lists(row: dict[str, Any]) -> tuple[str, str]:
    """Return the sort key of transfer lists."""
    return row["created_at"], row["transfer_id"]


async def test_sets_that_fail_leave_no_line(books: Client) -> None:
    """Failed sets leave no gap between the entries of a batch, although they moved money before they failed."""
    legs = [order(amount=5), order("bob", "alice", 4)]
    sets = [[*legs, order(amount=1_000)] if number % 2 else legs for number in range(20)]
    results = await asyncio.gather(
        *(
            bulk(books, [{"key": f"{number}-{n}", **leg} for n, leg in enumerate(chosen)], atomic=True)
            for number, chosen in enumerate(sets)
        )
    )
    assert [codes(result) for result in results] == [
        ["linked_failed", "linked_failed", "insufficient_funds"] if number % 2 else [201, 201] for number in range(20)
    ]
    assert [row["amount"] for row in await entries(books, "alice")] == [4, -5] * 10 + [100]
    assert [row["amount"] for row in await entries(books, "bob")] == [-4, 5] * 10


async def test_a_cursor_stays_valid_while_lines_are_added(books: Client) -> None:
    """Entries added between two pages do not move those still to be shown."""
    for _ in range(4):
        await books.transfer("alice", "bob", 1)
    first = (await books.get("/v1/accounts/alice/entries?limit=2")).json
    await bulk(books, [{"key": str(n), **order(amount=1)} for n in range(5)])
    second = (await books.get(f"/v1/accounts/alice/entries?limit=100&cursor={first['next_cursor']}")).json
    assert [row["version"] for row in first["data"] + second["data"]] == [6, 5, 4, 3, 2]


async def test_a_statement_of_a_time(books: Client) -> None:
    """`from` is included and `to` is not, to the microsecond, in any offset, and with cursors."""
    for _ in range(4):
        await books.transfer("alice", "bob", 1)
    rows = await entries(books)
    second, fourth = rows[1]["created_at"], rows[3]["created_at"]

    async def versions(query: str, account: str = "alice") -> list[int]:
        found = await pages(books, f"/v1/accounts/{account}/entries?{query}", 2)
        return [row["version"] for page in found for row in page]

    assert await versions(f"from={fourth}") == [6, 5, 4, 3]
    assert await versions(f"from={shifted(fourth, 1)}") == [6, 5, 4]
    assert await versions(f"to={second}") == [4, 3, 2]
    assert await versions(f"to={shifted(second, 1)}") == [5, 4, 3, 2]
    assert await versions(f"from={fourth}&to={second}") == [4, 3]
    assert await versions(f"from={fourth}&to={second}", "bob") == [3, 2]
    assert await versions(f"from={second}&to={second}") == []
    east = datetime.fromisoformat(fourth).astimezone(timezone(timedelta(hours=5.5))).isoformat(timespec="microseconds")
    assert await versions(f"from={quote(east)}") == [6, 5, 4, 3]
    assert await versions("from=2999-01-01T00:00:00Z") == []


async def test_periods_add_up_on_their_borders(books: Client) -> None:
    """
    Opening, entries and closing add up as docs/reference/statements.md says, whichever transfers fall on the borders.

    Every instant at which something happened, and the microseconds next to it, is a border of some period here.
    """
    for number in range(1, 4):
        await books.transfer("alice", "bob", number)
        await bulk(books, [{"key": f"{number}-{n}", **order("bob", "alice", 1)} for n in range(2)])
    happened = [row["created_at"] for row in await entries(books)]
    borders = sorted({shifted(instant, step) for instant in happened for step in (-1, 0, 1)})

    async def before(border: str) -> int:
        balance: int = (await balance_at(books, shifted(border, -1))).json["balance"]
        return balance

    for start, end in combinations(borders, 2):
        rows = await entries(books, query=f"from={start}&to={end}&limit=100")
        assert await before(start) + sum(row["amount"] for row in rows) == await before(end)
        assert all(start <= row["created_at"] < end for row in rows)
    periods = [await entries(books, query=f"from={start}&to={end}&limit=100") for start, end in pairwise(borders)]
    assert [row for rows in periods[::-1] for row in rows] == await entries(books)


async def test_an_account_without_lines_has_an_empty_statement(books: Client) -> None:
    """An account without entries has an empty list, unlike a missing account."""
    answer = await books.get("/v1/accounts/bob/entries")
    assert (answer.status, answer.json) == (200, {"data": [], "next_cursor": None})


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "cursor=x", "account=alice", "from=yesterday", "from=2026-01-01", "to="),
        *("from=2026-01-01T00:00:00", "to=2026-13-01T00:00:00Z", "from=0000-01-01T00:00:00Z"),
    ],
)
async def test_a_wrong_statement_query_is_refused(books: Client, query: str) -> None:
    """A parameter that is out of bounds, unknown, or not an instant with an offset is a 400."""
    answer = await books.get(f"/v1/accounts/alice/entries?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")


async def test_a_cursor_of_another_list_is_refused(books: Client) -> None:
    """A cursor is valid only for the kind of list that issued it."""
    for _ in range(2):
        await books.transfer("alice", "bob", 1)
    lists = ("/v1/accounts", "/v1/accounts/alice/entries", "/v1/transfers")
    cursors = {path: (await books.get(f"{path}?limit=1")).json["next_cursor"] for path in lists}
    for path in lists:
        for origin, cursor in cursors.items():
            answer = await books.get(f"{path}?limit=1&cursor={cursor}")
            assert answer.status == (200 if origin == path else 400), (path, origin)


async def test_a_balance_at_every_instant(books: Client) -> None:
    """The balance at an instant is that of the last entry at or before it, wherever the instant falls."""
    for number in (1, 2, 3):
        await books.transfer("alice", "bob", number)
    rows = (await entries(books))[::-1]
    for row, before in zip(rows, [None, *rows], strict=False):
        expected = (0, None) if before is None else (before["balance"], before["version"])
        earlier = (await balance_at(books, shifted(row["created_at"], -1))).json
        assert (earlier["balance"], earlier["version"]) == expected
        exact = (await balance_at(books, row["created_at"])).json
        assert exact == {
            "account": "alice",
            "currency": "EUR",
            "at": row["created_at"],
            "balance": row["balance"],
            "version": row["version"],
        }
    now = (await balance_at(books, rows[-1]["created_at"])).json
    assert now["balance"] == await books.balance("alice") == 94


async def test_a_balance_within_one_instant_is_the_last(books: Client) -> None:
    """If several entries share an instant, the balance at it is that of the last one."""
    results = await bulk(books, [{"key": str(n), **order(amount=1)} for n in range(3)])
    at = results[0]["transfer"]["created_at"]
    assert ((await balance_at(books, at)).json["balance"], (await balance_at(books, at, "bob")).json["balance"]) == (
        97,
        3,
    )


async def test_a_balance_before_the_account_was_opened_is_zero(books: Client) -> None:
    """Before its first entry an account has the balance 0."""
    answer = await balance_at(books, "1999-12-31T23:59:59+01:00")
    assert (answer.json["balance"], answer.json["version"], answer.json["at"]) == (
        0,
        None,
        "1999-12-31T22:59:59.000000Z",
    )


async def test_the_future_has_no_balance(books: Client) -> None:
    """An instant in the future is a 400, because its balance could still change."""
    future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    answer = await balance_at(books, future)
    assert (answer.status, answer.code, answer.json["errors"][0]["pointer"]) == (400, "invalid_request", "at")


@pytest.mark.parametrize("digits", ["5", "50", "9", "999", "999999999", "0" * 20 + "9", "9" * 100])
async def test_digits_past_the_microsecond_are_cut(books: Client, digits: str) -> None:
    """Digits past the microsecond are cut, never rounded up to the next microsecond, second or month."""
    posted = (await books.transfer("alice", "bob", 30)).json["created_at"]
    before = shifted(posted, -1).removesuffix("Z") + digits + "Z"
    exact = posted.removesuffix("Z") + digits + "Z"
    assert (await balance_at(books, before)).json["balance"] == 100
    assert (await balance_at(books, exact)).json["balance"] == 70
    assert [row["amount"] for row in await entries(books, query=f"from={exact}")] == [-30]
    assert [row["amount"] for row in await entries(books, query=f"to={exact}")] == [100]
    assert [row["amount"] for row in await entries(books, query=f"from={before}&to={exact}")] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-01-31T23:59:59.999999999Z", "2026-01-31T23:59:59.999999Z"),
        ("2026-01-31T23:59:59.9999999Z", "2026-01-31T23:59:59.999999Z"),
        ("2025-12-31T23:59:59.9999995+00:00", "2025-12-31T23:59:59.999999Z"),
        ("2024-02-29t23:59:59.9999999z", "2024-02-29T23:59:59.999999Z"),
        ("2026-02-01T01:29:59.9999999+01:30", "2026-01-31T23:59:59.999999Z"),
        ("2026-01-31T22:59:59.9999999-01:00", "2026-01-31T23:59:59.999999Z"),
        ("2026-01-31T23:59:59.1Z", "2026-01-31T23:59:59.100000Z"),
        ("2026-01-31T23:59:59.1234567Z", "2026-01-31T23:59:59.123456Z"),
        ("2026-01-31T23:59:59.0000009Z", "2026-01-31T23:59:59.000000Z"),
        ("0002-01-01T00:00:00.9999999Z", "0002-01-01T00:00:00.999999Z"),
    ],
)
async def test_an_instant_is_read_to_the_microsecond(books: Client, text: str, shown: str) -> None:
    """The answer shows the instant that was asked for, cut to microseconds."""
    assert (await balance_at(books, text)).json["at"] == shown


@pytest.mark.parametrize(
    "text",
    [
        *("2026-01-31T23:59:60.0000001Z", "2026-01-31T24:00:00.0000001Z", "2025-02-29T00:00:00.1234567Z"),
        *("9999-12-31T23:59:59.9999999Z", "2026-01-31T23:59:59.Z", "2026-01-31T23:59:59.1234567", "9" * 5_000),
        *("2026-01-31T23:59:59.1234567+24:00", "2026-01-31T23:59:59,1234567Z", "2026-01-31T23:59.1234567Z"),
    ],
)
@pytest.mark.parametrize("name", ["at", "from", "to"])
async def test_what_is_no_instant_is_refused(books: Client, name: str, text: str) -> None:
    """A malformed instant stays malformed when its extra digits are cut."""
    path = "balance" if name == "at" else "entries"
    answer = await books.get(f"/v1/accounts/alice/{path}?{name}={quote(text)}")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, name)


@pytest.mark.parametrize(("path", "name"), [("balance", "at"), ("entries", "from"), ("entries", "to")])
async def test_a_plus_sign_that_is_not_escaped_is_explained(books: Client, path: str, name: str) -> None:
    """An offset whose plus sign became a space is a 400 that says how to escape it; the escaped form is accepted."""
    query = f"/v1/accounts/alice/{path}?{name}=2026-01-31T12:00:00"
    answer = await books.get(f"{query}+02:00")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, name)
    assert "write it as %2B" in answer.json["detail"]
    assert (await books.get(f"{query}%2B02:00")).status == 200
    assert "%2B" not in (await books.get(query)).json["detail"]


@pytest.mark.parametrize("query", ["", "at=", "at=now", "at=2026-01-01T00:00:00", "when=2026-01-01T00:00:00Z"])
async def test_a_wrong_balance_query_is_refused(books: Client, query: str) -> None:
    """An instant with its offset is required."""
    answer = await books.get(f"/v1/accounts/alice/balance?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")
