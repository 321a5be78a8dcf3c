"""Books that were exported and imported are the same books, whatever happens in between."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.settings import POSTING_FAILPOINTS
from tests.books.book import LEDGER, export, made_book, same
from tests.support.client import Client
from tests.support.command import NO_REDIS, Ended, call, run
from tests.support.postgres import administer
from tests.support.service import in_process

# The fields that describe an account's state.
STANDS = ("balance", "held_in", "held_out", "available", "floor", "ceiling", "closed", "currency", "metadata")
# More transfers than two bulks hold.
MANY = 1_200


async def imported(database_url: str, ledger: str, file: Path) -> Ended:
    """Import a file into a ledger and return the command's result."""
    return await call("import", str(file), "--ledger", ledger, database_url=database_url, redis_url=NO_REDIS)


async def stands(client: Client) -> Mapping[str, Any]:
    """Return the state of all accounts of a ledger, by id."""
    data = (await client.get("/v1/accounts?limit=100")).json["data"]
    return {account["id"]: {name: account.get(name) for name in STANDS} for account in data}


@pytest.mark.parametrize(("seed", "layout"), [(0, "csv"), (1, "jsonl"), (2, "csv")])
async def test_a_copy_is_the_same(database_url: str, tmp_path: Path, seed: int, layout: str) -> None:
    """
    Books with all kinds of transfers are the same after an export, an import into an empty ledger and a second export.
    """
    async with made_book(database_url, seed) as posted:
        original = await export(database_url, LEDGER, "jsonl", tmp_path)
        kinds = [orjson.loads(line)["kind"] for line in original.splitlines()]
        for kind, count in posted.items():
            # An expiry that was not posted yet is exported too.
            assert kinds.count(kind) == count or (kind == "expiry" and kinds.count(kind) > count)
        await export(database_url, LEDGER, layout, tmp_path)
        end = await imported(database_url, "copy", tmp_path / f"{LEDGER}.{layout}")
        assert (end.code, end.err) == (0, ""), end
        copy = await export(database_url, "copy", "jsonl", tmp_path)
        assert same(copy) == same(original)
        audit = await call("audit", "--ledger", "copy", database_url=database_url)
        assert audit.code == 0, audit
        async with in_process(database_url) as service:
            of_copy, of_original = [await stands(await service.client(name)) for name in ("copy", LEDGER)]
            assert of_copy == of_original


async def test_imported_where_it_is(database_url: str, tmp_path: Path) -> None:
    """An import of a file into its own ledger adds nothing and changes nothing."""
    async with made_book(database_url, 7) as posted:
        before = await export(database_url, LEDGER, "jsonl", tmp_path)
        count = before.count(b'"record":"transfer"')
        await export(database_url, LEDGER, "csv", tmp_path)
        end = await imported(database_url, LEDGER, tmp_path / f"{LEDGER}.csv")
        assert end.code == 0, end
        # The import posts due expiries, which the service would have done.
        due = before.count(b'"kind":"expiry"') - posted["expiry"]
        assert f"{count} transfers ({count - due} already there)" in end.out
        assert same(await export(database_url, LEDGER, "jsonl", tmp_path)) == same(before)


async def test_in_parts(database_url: str, tmp_path: Path) -> None:
    """Two parts, split at an instant and imported one after the other, make the whole book."""
    async with made_book(database_url, 11, limits=False):
        whole = await export(database_url, LEDGER, "jsonl", tmp_path)
        instants = sorted(r["created_at"] for r in map(orjson.loads, whole.splitlines()) if r["created_at"])
        middle = instants[len(instants) // 2]
        for words in (("--to", middle), ("--from", middle)):
            part = await export(database_url, LEDGER, "jsonl", tmp_path, *words)
            assert 0 < part.count(b'"record":"transfer"') < whole.count(b'"record":"transfer"')
            file = tmp_path / "part.jsonl"
            file.write_bytes(part)
            end = await imported(database_url, "parts", file)
            assert end.code == 0, end
        assert same(await export(database_url, "parts", "jsonl", tmp_path)) == same(whole)


def many(folder: Path) -> Path:
    """Write a file in which each transfer needs the money of the one before; it includes holds and captures."""
    lines = ["record,id,key,kind,parent,source,destination,amount,currency,floor,effective_at"]
    lines += [f"account,{name},,,,,,,EUR,{floor}," for name, floor in (("world", ""), ("a", 0), ("b", 0))]
    day = "2020-01-01T00:00:00Z"
    lines.append(f"transfer,,t0,,,world,a,5,EUR,,{day}")
    for number in range(1, MANY):
        source, destination = ("a", "b") if number % 2 else ("b", "a")
        lines.append(f"transfer,,h{number},hold,,{source},{destination},5,EUR,,{day}")
        lines.append(f"transfer,,c{number},capture,h{number},{source},{destination},5,EUR,,{day}")
    file = folder / "many.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("name", POSTING_FAILPOINTS)
async def test_killed_and_run_again(database_url: str, tmp_path: Path, name: str) -> None:
    """An import that is killed continues when it is run again, and every transfer is posted once."""
    file = many(tmp_path)
    words = ("import", str(file), "--ledger", "books")
    settings = {"database_url": database_url, "redis_url": NO_REDIS}
    end = await run(*words, **settings, failpoints=f"{name}=kill@3")
    assert end.code == -signal.SIGKILL, end
    [row] = await administer(database_url, "SELECT count(*) AS posted FROM tallystick.transfers")
    assert 0 < row["posted"] < 2 * MANY - 1
    end = await run(*words, **settings)
    assert end.code == 0, end
    assert f"{2 * MANY - 1:,} transfers ({row['posted']:,} already there)" in end.out
    exported = await export(database_url, "books", "jsonl", tmp_path)
    records = [orjson.loads(line) for line in exported.splitlines()]
    keys = [record["key"] for record in records if record["record"] == "transfer"]
    expected = ["t0", *(f"{kind}{number}" for number in range(1, MANY) for kind in "hc")]
    assert keys == expected
    assert {r["id"]: r["floor"] for r in records if r["record"] == "account"} == {"world": None, "a": 0, "b": 0}


HEAD = "record,id,key,kind,parent,source,destination,amount,currency,floor,closed,effective_at\n"
ACCOUNTS = "account,world,,,,,,,EUR,,,\naccount,a,,,,,,,EUR,0,,\naccount,b,,,,,,,EUR,0,,\n"


def line(
    key: str, source: str = "world", destination: str = "a", amount: object = 5, currency: str = "EUR", **more: str
) -> str:
    """Return the line of a transfer."""
    kind, parent, at = more.get("kind", ""), more.get("parent", ""), more.get("effective_at", "")
    return f"transfer,,{key},{kind},{parent},{source},{destination},{amount},{currency},,,{at}\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(
            ACCOUNTS + line("k") + line("k2", amount="1.5"), "line 6: amount: a whole number", id="a bad line"
        ),
        pytest.param(ACCOUNTS + line("k") + line("k2")[:-1], "line 6: the file ends in the middle", id="cut off"),
        pytest.param(line("k") + ACCOUNTS, "line 3: accounts come before transfers", id="an account after a transfer"),
        pytest.param(
            ACCOUNTS + line("k") + line("v", kind="void", parent="no"),
            "line 6: parent: nothing earlier is posted under that key",
            id="a parent there is not",
        ),
        pytest.param(
            ACCOUNTS + line("c", kind="capture", parent="h") + line("h", kind="hold"),
            "line 5: parent: nothing earlier is posted under that key",
            id="a parent behind it",
        ),
        pytest.param(
            ACCOUNTS + line("k", destination="nobody"),
            "line 5: destination: neither the file nor the ledger has that account",
            id="an account there is not",
        ),
        pytest.param(
            ACCOUNTS + line("k", currency="USD"), "line 5: currency: the source has a different one", id="a currency"
        ),
        pytest.param(
            ACCOUNTS + line("k", effective_at="2999-01-01T00:00:00Z"),
            "line 5: effective_at: it is in the future",
            id="an instant to come",
        ),
        pytest.param(
            ACCOUNTS + line("k") + line("k", amount=6), "line 6: key: it is already in the file", id="a key twice"
        ),
        pytest.param(
            ACCOUNTS + "account,a,,,,,,,USD,0,,\n", "line 5: id: the account is already in the file", id="an id twice"
        ),
        pytest.param(
            ACCOUNTS + "account,a,,,,,,,EUR,1,,\n", "line 5: id: the account is already in the file", id="two floors"
        ),
    ],
)
async def test_a_bad_file(database_url: str, tmp_path: Path, text: str, error: str) -> None:
    """If a line of a file is malformed, nothing is done, and no ledger is made."""
    file = tmp_path / "bad.csv"
    file.write_text(HEAD + text)
    end = await imported(database_url, "books", file)
    assert (end.code, end.out) == (1, "")
    assert f"{file}, {error}" in end.err
    assert await administer(database_url, "SELECT FROM tallystick.ledgers") == []


@pytest.mark.parametrize(
    ("text", "error", "posted"),
    [
        pytest.param(
            ACCOUNTS + line("k") + line("v", kind="void", parent="k") + line("k3"),
            "line 6: refused: hold_not_open (parent); its key is bound to that",
            ["k", "k3"],
            id="a void of a transfer",
        ),
        pytest.param(
            ACCOUNTS + line("h", kind="hold") + line("", kind="expiry", parent="h", amount=4),
            "line 6: amount: what is posted under its key differs",
            ["expiry", "h"],
            id="another amount than remains",
        ),
        pytest.param(
            ACCOUNTS + line("h", kind="hold") + 2 * line("", kind="expiry", parent="h"),
            None,
            ["expiry", "h"],
            id="an expiry twice",
        ),
        pytest.param(ACCOUNTS + 2 * line("k"), None, ["k"], id="a line twice"),
    ],
)
async def test_a_line_that_cannot_be_posted(
    database_url: str, tmp_path: Path, text: str, error: str | None, posted: list[str]
) -> None:
    """The error names the line and what is wrong; earlier transfers stay posted, and accounts have their floors."""
    file = tmp_path / "books.csv"
    file.write_text(HEAD + text)
    end = await imported(database_url, "books", file)
    assert end.code == (0 if error is None else 1), end
    if error is not None:
        assert f"{file}, {error}" in end.err
    rows = await administer(
        database_url, "SELECT idempotency_key AS key FROM tallystick.transfers WHERE refusal IS NULL ORDER BY 1"
    )
    assert [row["key"].split()[0] for row in rows] == posted
    rows = await administer(database_url, "SELECT id, floor FROM tallystick.accounts")
    assert {row["id"]: row["floor"] for row in rows} == {"world": None, "a": 0, "b": 0}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(line("k", amount=6), "line 6: amount: what is posted under its key differs", id="another amount"),
        pytest.param(line("r"), "line 6: refused: insufficient_funds", id="a refusal"),
        pytest.param(line("n", destination="usd"), "line 6: currency: the destination has", id="a currency"),
        pytest.param(line("v", kind="void", parent="no"), "line 6: parent: nothing earlier", id="a parent"),
    ],
)
async def test_a_line_that_the_ledger_contradicts(database_url: str, tmp_path: Path, text: str, error: str) -> None:
    """The file is compared with the ledger first: on a contradiction, no account is opened and no other line posted."""
    file = tmp_path / "books.csv"
    file.write_text(HEAD + ACCOUNTS.replace("world,,,,,,,EUR,", "world,,,,,,,EUR,0") + line("before") + text)
    async with in_process(database_url) as service:
        client = await service.client("books")
        await client.open("world", floor=0)
        await client.open("fund", floor=None)
        await client.open("usd", currency="USD", floor=None)
        await client.open("a")
        assert (await client.transfer("world", "a", 5, key="r")).code == "insufficient_funds"
        await client.transfer("fund", "world", 9)
        assert (await client.transfer("world", "a", 5, key="k")).status == 201
        end = await imported(database_url, "books", file)
        assert (end.code, f"{file}, {error}" in end.err) == (1, True), end
        accounts = await stands(client)
        assert accounts.keys() == {"world", "fund", "usd", "a"}
        assert (accounts["a"]["balance"], accounts["a"]["floor"]) == (5, 0)


async def test_an_account_with_other_limits(database_url: str, tmp_path: Path) -> None:
    """An existing account keeps its limits; if the file's limits differ, the import fails."""
    file = tmp_path / "books.csv"
    file.write_text(HEAD + ACCOUNTS + line("k"))
    async with in_process(database_url) as service:
        client = await service.client("books")
        await client.open("world", floor=None)
        await client.open("a", floor=-5)
        end = await imported(database_url, "books", file)
        assert (end.code, f"{file}, line 3: floor, ceiling, closed: " in end.err) == (1, True), end
        await client.send("PATCH", "/v1/accounts/a", {"floor": 0, "closed": True})
        file.write_text(HEAD + ACCOUNTS.replace("a,,,,,,,EUR,0,", "a,,,,,,,EUR,0,true") + line("k"))
        end = await imported(database_url, "books", file)
        assert (end.code, "line 5: destination: the account is closed" in end.err) == (1, True), end


async def test_no_file(database_url: str, tmp_path: Path) -> None:
    """The error names a file that cannot be read."""
    end = await imported(database_url, "books", tmp_path / "none.csv")
    assert (end.code, end.err) == (2, f"tallystick: No such file or directory: {tmp_path / 'none.csv'}\n")
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        end = await imported(database_url, "books", tmp_path / "pipe")
    finally:
        os.close(writer)
    assert (end.code, "is not a regular file" in end.err) == (2, True)
    end = await imported(database_url, "not a ledger", tmp_path / "none.csv")
    assert (end.code, "a ledger's name has" in end.err) == (2, True)


async def test_a_hold_that_is_open_keeps_its_instant(database_url: str, tmp_path: Path) -> None:
    """
    In the copy, an open hold reserves its money until its original expiry, not for its full life from the import on.
    """
    file = tmp_path / "books.jsonl"
    hold: dict[str, Any] = {
        "key": "h",
        "kind": "hold",
        "source": "a",
        "destination": "b",
        "amount": 5,
        "currency": "EUR",
    }
    lines: list[dict[str, Any]] = [{"record": "account", "id": name, "currency": "EUR", "floor": None} for name in "ab"]
    gone, kept = "2020-01-01T00:00:00.000001Z", "2999-01-01T00:00:00.000001Z"
    lines += [{**hold, "expires_at": gone}, {**hold, "key": "h2", "expires_at": kept}]
    file.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in lines))
    assert (await imported(database_url, "books", file)).code == 0
    async with in_process(database_url) as service:
        client = await service.client("books")
        assert (await client.account("a"))["held_out"] == 5
    records = [orjson.loads(each) for each in (await export(database_url, "books", "jsonl", tmp_path)).splitlines()]
    [expiry] = [record for record in records if record["kind"] == "expiry"]
    assert (expiry["parent"], expiry["effective_at"]) == ("h", gone)
    assert [r["expires_at"] for r in records if r["kind"] == "hold"] == [None, kept]
