"""Whole statements: opening balance, every entry, closing balance, by posting or by value date."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from server.http.statement_forms import StatementBody
from server.ledger import statements
from tests.api.steps import bulk, order, pages
from tests.api.test_statements import shifted
from tests.support.client import Answer, Client

ORDERS = pytest.mark.parametrize("by", ["created", "effective"])
# Value dates: the first microsecond of a few months, so that many entries share one.
MONTHS = [f"2020-0{month}-01T00:00:00.000000Z" for month in (1, 2, 3)]


async def statement(client: Client, account: str = "alice", **query: str | None) -> Any:
    """Return a statement, which must succeed."""
    answer = await ask(client, account, **query)
    assert answer.status == 200, answer
    # The answer has exactly the published form.
    assert msgspec.json.encode(msgspec.json.decode(answer.body, type=StatementBody)) == answer.body
    # Not with orjson, which rounds numbers beyond 64 bits.
    return json.loads(answer.body)


async def ask(client: Client, account: str = "alice", **query: str | None) -> Answer:
    """Ask for a statement; `since` and `until` stand for `from` and `to`, and None leaves a parameter out."""
    names = {"since": "from", "until": "to"}
    chosen = {names.get(name, name): value for name, value in query.items() if value is not None}
    return await client.get(f"/v1/accounts/{account}/statement?{urlencode(chosen)}")


async def balance(client: Client, at: str, by: str, account: str = "alice") -> int:
    """Return the balance at an instant, by posting or by value date."""
    answer = await client.get(f"/v1/accounts/{account}/balance?at={quote(at)}&by={by}")
    assert answer.status == 200, answer
    value: int = json.loads(answer.body)["balance"]
    return value


@pytest.fixture
async def books(client: Client) -> Client:
    """Alice and bob have paid each other, some payments back-dated, some in bulks."""
    dice = random.Random(7)
    await client.fund("alice", 1_000)
    await client.open("bob", floor=None)
    for number in range(12):
        sides = ("alice", "bob") if dice.random() < 0.5 else ("bob", "alice")
        await client.transfer(*sides, dice.randint(1, 20), reference=f"n {number}", **dated(dice))
    ways = [("alice", "bob"), ("bob", "alice")]
    legs = [order(*dice.choice(ways), dice.randint(1, 9), **dated(dice)) for _ in range(9)]
    results = await bulk(client, [{"key": f"b-{n}", **leg} for n, leg in enumerate(legs)])
    assert {result["status"] for result in results} == {201}
    return client


def dated(dice: random.Random) -> dict[str, str]:
    """Return a value date for some transfers, and nothing for most."""
    return {"effective_at": dice.choice(MONTHS)} if dice.random() < 0.4 else {}


@pytest.fixture(params=[1, 2, 3, 7, 500])
def page_entries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many entries are read at a time: longer statements are sent in pieces."""
    size: int = request.param
    monkeypatch.setattr(statements, "PAGE_ENTRIES", size)
    return size


@pytest.mark.usefixtures("page_entries")
async def test_a_statement_is_what_entries_and_balances_say(books: Client) -> None:
    """By posting, the statement has the entries of the list, oldest first, with their balances."""
    listed = [row for page in await pages(books, "/v1/accounts/alice/entries", 100) for row in page][::-1]
    whole = await statement(books)
    assert [{k: v for k, v in entry.items() if k != "effective_at"} for entry in whole["entries"]] == listed
    assert (whole["account"], whole["currency"], whole["from"], whole["to"], whole["by"]) == (
        *("alice", "EUR", None, None, "created"),
    )
    assert (whole["opening_balance"], whole["closing_balance"]) == (0, await books.balance("alice"))
    assert whole["as_of"] >= listed[-1]["created_at"]


@pytest.mark.usefixtures("page_entries")
@pytest.mark.parametrize("account", ["alice", "bob", "world"])
@ORDERS
async def test_a_statement_adds_up(books: Client, by: str, account: str) -> None:
    """Entries are in the requested order, each with the sum so far, and the last sum is the closing balance."""
    whole = await statement(books, account, by=by)
    total = whole["opening_balance"]
    for entry in whole["entries"]:
        total += entry["amount"]
        assert entry["balance"] == total
    assert whole["closing_balance"] == total == await books.balance(account)
    names = ("created_at", "version") if by == "created" else ("effective_at", "created_at", "version")
    places = [tuple(entry[name] for name in names) for entry in whole["entries"]]
    assert places == sorted(places)
    other = await statement(books, account, by="created" if by == "effective" else "effective")
    ids = sorted(entry["transfer_id"] for entry in whole["entries"])
    assert ids == sorted(entry["transfer_id"] for entry in other["entries"])
    assert len(set(ids)) == len(ids)


@ORDERS
async def test_any_period_adds_up(books: Client, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Opening + entries = closing, and both equal the balances read, whichever entries fall on the borders.

    The borders are every posting instant and value date, and the microseconds next to them.
    """
    monkeypatch.setattr(statements, "PAGE_ENTRIES", 3)
    whole = await statement(books, by=by)
    name = "created_at" if by == "created" else "effective_at"
    happened = {entry[field] for entry in whole["entries"] for field in ("created_at", "effective_at")}
    borders = sorted({shifted(instant, step) for instant in happened for step in (-1, 0, 1)})
    before = {border: await balance(books, shifted(border, -1), by) for border in borders}
    chosen = random.Random(3).sample(list(combinations(borders, 2)), 60) + list(pairwise(borders))
    for start, end in chosen:
        part = await statement(books, since=start, until=end, by=by)
        assert part["opening_balance"] == before[start]
        assert part["closing_balance"] == before[end]
        ids = [entry["transfer_id"] for entry in part["entries"]]
        assert ids == [entry["transfer_id"] for entry in whole["entries"] if start <= entry[name] < end]
        assert part["opening_balance"] + sum(entry["amount"] for entry in part["entries"]) == part["closing_balance"]
        assert (part["from"], part["to"]) == (start, end)


async def test_a_back_dated_transfer_changes_what_the_books_say_of_the_past(client: Client) -> None:
    """A transfer back-dated to last year changes last year's balances by value date, but not by posting."""
    await client.fund("alice", 100)
    await client.open("bob")
    now = (await client.transfer("alice", "bob", 1)).json["created_at"]
    late = (await client.transfer("alice", "bob", 30, effective_at="2020-02-01T00:00:00Z")).json
    assert late["effective_at"] == MONTHS[1]
    for account, sign in (("alice", -1), ("bob", 1)):
        for at, by, expected in (
            (shifted(MONTHS[1], -1), "effective", 0),
            (MONTHS[1], "effective", 30 * sign),
            (MONTHS[1], "created", 0),
            (now, "effective", 31 * sign + (100 if account == "alice" else 0)),
            (now, "created", 1 * sign + (100 if account == "alice" else 0)),
            (late["created_at"], "effective", 31 * sign + (100 if account == "alice" else 0)),
            (late["created_at"], "created", 31 * sign + (100 if account == "alice" else 0)),
        ):
            assert await balance(client, at, by, account) == expected, (account, at, by)
    year = await statement(client, since="2020-01-01T00:00:00Z", until="2021-01-01T00:00:00Z", by="effective")
    assert [(entry["amount"], entry["effective_at"], entry["created_at"]) for entry in year["entries"]] == [
        (-30, MONTHS[1], late["created_at"])
    ]
    assert (year["opening_balance"], year["closing_balance"]) == (0, -30)


async def test_the_version_of_an_effective_balance(client: Client) -> None:
    """A balance by value date has the version of its newest entry, whenever that was posted."""
    await client.fund("alice", 100)
    await client.open("bob")
    late = (await client.transfer("alice", "bob", 30, effective_at=MONTHS[0])).json
    await client.transfer("alice", "bob", 1)

    async def version(at: str) -> Any:
        return (await client.get(f"/v1/accounts/alice/balance?at={at}&by=effective")).json["version"]

    assert await version(MONTHS[0]) == late["source_version"] == 3
    assert await version(shifted(MONTHS[0], -1)) is None


async def test_holds_are_no_entries(client: Client) -> None:
    """A hold, its release and its expiry leave no entry; a capture and a reversal do, on both sides."""
    await client.fund("alice", 100)
    await client.open("bob")
    hold = (await client.transfer("alice", "bob", 10, hold=True)).json
    void = (await client.transfer("alice", "bob", 5, hold=True)).json
    await client.send("POST", f"/v1/transfers/{void['id']}/void", {}, headers={"Idempotency-Key": "void"})
    capture = await client.send(
        "POST", f"/v1/transfers/{hold['id']}/capture", {"amount": 7}, headers={"Idempotency-Key": "capture"}
    )
    assert capture.status == 201, capture
    reversal = await client.send(
        "POST", f"/v1/transfers/{capture.json['id']}/reverse", {"amount": 2}, headers={"Idempotency-Key": "reversal"}
    )
    assert reversal.status == 201, reversal
    expected = [("transfer", 100), ("capture", -7), ("reversal", 2)]
    for by in ("created", "effective"):
        whole = await statement(client, by=by)
        assert [(entry["kind"], entry["amount"]) for entry in whole["entries"]] == expected
        assert whole["closing_balance"] == 95
    assert [(row["kind"], row["amount"]) for row in (await statement(client, "bob"))["entries"]] == [
        *(("capture", 7), ("reversal", -2)),
    ]
    listed = (await client.get("/v1/accounts/alice/entries")).json["data"]
    assert [(row["kind"], row["amount"]) for row in listed] == expected[::-1]
    now = datetime.now(UTC).isoformat()
    assert await balance(client, now, "created") == await balance(client, now, "effective") == 95


@ORDERS
async def test_a_statement_has_what_was_posted_when_it_was_asked_for(books: Client, by: str) -> None:
    """A statement ends at `as_of`: later postings are not in it, and a future `to` means until now."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    first = await statement(books, until=tomorrow, by=by)
    later = (await books.transfer("alice", "bob", 1, effective_at=MONTHS[0])).json
    assert first["as_of"] < later["created_at"]
    second = await statement(books, until=tomorrow, by=by)
    assert len(second["entries"]) == len(first["entries"]) + 1
    assert second["closing_balance"] == first["closing_balance"] - 1
    if by == "created":
        # Cut where the first one ended, the new statement has the same entries.
        until = shifted(first["as_of"], 1)
        again = await statement(books, until=until)
        assert again["entries"] == first["entries"]
        assert again["as_of"] == until


@ORDERS
async def test_statements_made_while_others_post(books: Client, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement read in pieces while others post, back-dated too, has what was posted up to its `as_of`."""
    monkeypatch.setattr(statements, "PAGE_ENTRIES", 5)

    async def post(number: int) -> None:
        dice = random.Random(number)
        for turn in range(8):
            legs = [order(amount=dice.randint(1, 3), **dated(dice)) for _ in range(6)]
            results = await bulk(books, [{"key": f"{number}-{turn}-{n}", **leg} for n, leg in enumerate(legs)])
            assert {result["status"] for result in results} == {201}

    async def look() -> list[Any]:
        return [await statement(books, by=by) for _ in range(8)]

    made = await asyncio.gather(look(), look(), post(1), post(2))
    whole = await statement(books, by=by)
    found = [part for parts in made if parts is not None for part in parts]
    for part in found:
        known = [entry["transfer_id"] for entry in whole["entries"] if entry["created_at"] <= part["as_of"]]
        assert [entry["transfer_id"] for entry in part["entries"]] == known
        assert part["closing_balance"] == sum(entry["amount"] for entry in part["entries"])
    assert len({len(part["entries"]) for part in found}) > 1


@ORDERS
async def test_an_account_without_entries(client: Client, by: str) -> None:
    """The statement of an account without entries is empty, and both balances are 0."""
    await client.open("alice")
    empty = await statement(client, by=by)
    assert (empty["opening_balance"], empty["entries"], empty["closing_balance"]) == (0, [], 0)


@ORDERS
async def test_a_period_without_entries(books: Client, by: str) -> None:
    """Opening and closing balance are equal; a period may be empty."""
    for since, until in (("2020-05-01T00:00:00Z", "2020-06-01T00:00:00Z"), (MONTHS[1], MONTHS[1])):
        part = await statement(books, since=since, until=until, by=by)
        assert part["entries"] == []
        assert part["opening_balance"] == part["closing_balance"] == await balance(books, shifted(since, -1), by)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "from"),
        ({"since": "2999-01-01T00:00:00Z"}, "from"),
        ({"since": "2999-01-01T00:00:00Z", "until": "2999-02-01T00:00:00Z"}, "from"),
        ({"since": "yesterday"}, "from"),
        ({"until": "2026-01-01T00:00:00"}, "to"),
        ({"by": "posted"}, "by"),
        ({"by": "Created"}, "by"),
    ],
)
async def test_a_wrong_query_is_refused(books: Client, query: dict[str, str], pointer: str) -> None:
    """A period that ends before it begins or starts in the future, and an unknown order, are a 400 that names them."""
    answer = await ask(books, **query)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


@pytest.mark.parametrize("account", ["nobody", "-", "x" * 65])
@pytest.mark.parametrize("query", ["", "?by=effective", "?to=2020-01-01T00:00:00Z"])
async def test_no_account_no_statement(client: Client, account: str, query: str) -> None:
    """A missing or impossible account is a 404, in any order and for any time."""
    answer = await client.get(f"/v1/accounts/{account}/statement{query}")
    assert (answer.status, answer.code) == (404, "account_not_found")
    answer = await client.get(f"/v1/accounts/{account}/balance?at=2020-01-01T00:00:00Z&by=effective")
    assert (answer.status, answer.code) == (404, "account_not_found")


async def test_a_balance_has_two_orders(books: Client) -> None:
    """An unknown order is a 400 that names the two; an instant in the future is a 400 in both orders."""
    answer = await books.get(f"/v1/accounts/alice/balance?at={MONTHS[0]}&by=value")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "by")
    assert "created or effective" in answer.json["errors"][0]["detail"]
    answer = await books.get("/v1/accounts/alice/balance?at=2999-01-01T00:00:00Z&by=effective")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "at")


async def test_running_sums_may_pass_64_bits(client: Client) -> None:
    """By value date, a running sum may be larger than any balance, and is still exact."""
    large = 2**63 - 1
    await client.open("world", floor=None)
    await client.open("other", floor=None)
    await client.open("alice", floor=None)
    for source, destination, month in (
        *(("world", "alice", MONTHS[0]), ("alice", "world", MONTHS[2]), ("world", "alice", MONTHS[1])),
        *(("alice", "world", None), ("other", "alice", MONTHS[1])),
    ):
        answer = await client.transfer(source, destination, large, **({"effective_at": month} if month else {}))
        assert answer.status == 201, answer
    whole = await statement(client, by="effective")
    assert [entry["balance"] / large for entry in whole["entries"]] == [1, 2, 3, 2, 1]
    assert await balance(client, MONTHS[1], "effective") == 3 * large
    part = await statement(client, by="effective", since=MONTHS[2])
    assert (part["opening_balance"], part["closing_balance"]) == (3 * large, large)
