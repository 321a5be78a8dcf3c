"""Statements as CSV: spreadsheets open them, and programs read them back without loss."""

import csv
import io

import pytest

from server.http.accept import prefers
from server.http.statement_forms import COLUMNS
from server.ledger import statements
from tests.api.test_statements import shifted
from tests.support.client import Client

REFERENCES = [
    *("plain", 'a "quoted" one', "one, two", "two\r\nlines", "two\nlines", " spaces ", "ünï ✓ 🙂", "", "0012"),
    *("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "'quoted", "''", "=", '=cmd|"/C calc"!A0'),
]


async def rows(client: Client, query: str = "", account: str = "alice") -> list[dict[str, str]]:
    """Return a statement's lines as dictionaries by column."""
    answer = await client.get(f"/v1/accounts/{account}/statement{query}", Accept="text/csv")
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Vary"] == "Accept"
    text = answer.body.decode()
    assert text.endswith("\r\n")
    found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert tuple(found[0]) == COLUMNS
    assert {len(row) for row in found} == {len(COLUMNS)}
    return [dict(zip(COLUMNS, row, strict=True)) for row in found[1:]]


@pytest.mark.parametrize("size", [3, 500])
@pytest.mark.parametrize("by", ["created", "effective"])
async def test_both_forms_say_the_same(client: Client, by: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CSV has each entry, both balances and every text of the JSON, whether sent whole or in pieces."""
    monkeypatch.setattr(statements, "PAGE_ENTRIES", size)
    await client.fund("alice", 1_000)
    await client.open("bob")
    for number, reference in enumerate(REFERENCES):
        dated = {"effective_at": "2020-01-01T00:00:00Z"} if number % 3 == 0 else {}
        posted = await client.transfer("alice", "bob", number + 1, reference=reference or None, **dated)
        assert posted.status == 201, posted
    whole = (await client.get(f"/v1/accounts/alice/statement?by={by}")).json
    opening, *entries, closing = await rows(client, f"?by={by}")
    assert (opening["line"], opening["balance"], opening["effective_at"]) == ("opening", "0", "")
    assert (closing["line"], closing["balance"]) == ("closing", str(whole["closing_balance"]))
    assert closing["created_at"] >= whole["as_of"]
    assert {(row["account"], row["currency"]) for row in (opening, *entries, closing)} == {("alice", "EUR")}
    assert {row["line"] for row in entries} == {"entry"}
    for row, entry in zip(entries, whole["entries"], strict=True):
        shared = COLUMNS[2:7] + COLUMNS[8:10] + COLUMNS[11:]
        assert {name: row[name] for name in shared} == {name: str(entry[name]) for name in shared}
        # Without the apostrophe that keeps a spreadsheet from calculating.
        assert row["reference"].removeprefix("'") == (entry["reference"] or "")


async def test_no_cell_is_a_formula(client: Client) -> None:
    """A caller's text never starts like a formula; amounts are plain numbers, negative ones too."""
    await client.fund("alice", 1_000)
    await client.open("bob")
    for reference in REFERENCES:
        await client.transfer("alice", "bob", 1, reference=reference or None)
    entries = (await rows(client))[1:-1]
    assert all(not row["reference"].startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for row in entries)
    assert [row["reference"] for row in entries if row["reference"] == "0012"] == ["0012"]
    assert [row["amount"] for row in entries][:2] == ["1000", "-1"]


async def test_the_borders_are_in_it(client: Client) -> None:
    """The opening line has the start of the period, the closing line its end and `as_of`."""
    await client.fund("alice", 100)
    posted = (await client.transfer("alice", "world", 1)).json["created_at"]
    since, until = shifted(posted, 0), shifted(posted, 1)
    opening, _, closing = await rows(client, f"?from={since}&to={until}")
    assert (opening["effective_at"], opening["balance"]) == (since, "100")
    assert (closing["effective_at"], closing["created_at"], closing["balance"]) == (until, until, "99")
    closing = (await rows(client, "?to=2999-01-01T00:00:00Z"))[-1]
    assert posted < closing["effective_at"] == closing["created_at"] < "2999"


async def test_an_empty_statement_has_its_balances(client: Client) -> None:
    """An empty statement has the column names, the opening and the closing balance."""
    await client.open("alice")
    assert [row["line"] for row in await rows(client)] == ["opening", "closing"]


async def test_a_problem_is_json(client: Client) -> None:
    """Problems are JSON, even if CSV was asked for."""
    answer = await client.get("/v1/accounts/nobody/statement", Accept="text/csv")
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("accept", "csv_wanted"),
    [
        *([[], False], [["*/*"], False], [["application/json"], False], [["text/html, */*;q=0.1"], False]),
        *([["text/csv"], True], [["TEXT/CSV"], True], [["text/csv; charset=utf-8"], True], [["text/csv;q=0.5"], True]),
        *([["text/csv, application/json"], True], [["application/json, text/csv;q=0.9"], False]),
        *([["application/json;q=0.1, text/csv;q=0.2"], True], [["text/csv;q=0"], False], [["text/csv;q=0.0"], False]),
        *(
            [["text/csv, application/problem+json"], True],
            [["application/json", "text/csv"], True],
            [["text/*"], False],
        ),
        *([[",,"], False], [["text/csv;;q=1"], True], [["text/csv;q=x"], True], [["text/csv2"], False]),
        *([["application/json; amounts=string"], False],),
    ],
)
def test_who_gets_csv(accept: list[str], csv_wanted: bool) -> None:
    """CSV is sent if Accept names it, unless JSON has more weight."""
    assert prefers(accept, "text/csv") == csv_wanted
