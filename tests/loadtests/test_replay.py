"""
The replay as a program, against a server that it starts and against one that it is given.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loadtests.openloop import replay as program
from loadtests.openloop.__main__ import main
from loadtests.openloop.replay import DATA, KEY_VARIABLE
from loadtests.processes import Done, run_command
from loadtests.servers import Server, own_server

ROOT = Path(__file__).resolve().parents[2]
# A server starts with a new database cluster, maybe on a busy machine.
SECONDS_MAX = 300

pytestmark = pytest.mark.timeout(2 * SECONDS_MAX)

HEADER = (
    "seq,trans_id,account_id,date,sign,amount_cents,bank_balance_cents,rounding_cents,operation,k_symbol,partner_bank"
)
# Two accounts with invented figures; the seventh column is the balance after the row.
BOOKS = (
    "1,11,1,990101,+,100000,100000,0,VKLAD,,",
    "2,12,2,990101,+,70000,70000,0,PREVOD Z UCTU,,QQ",
    "3,13,1,990102,-,120000,-20000,0,VYBER,,",
    "4,14,2,990103,+,335,70330,-5,,UROK,",
    "5,15,1,990104,-,1465,-21460,5,VYBER,SLUZBY,",
    "6,16,2,990105,-,330,70000,0,PREVOD NA UCET,SIPO,QQ",
)


async def replay(*arguments: str, key: str | None = None) -> Done:
    """
    Return the program's exit code and output.
    """
    environment = {name: text for name, text in os.environ.items() if name != KEY_VARIABLE}
    if key is not None:
        environment[KEY_VARIABLE] = key
    environment["PYTHONPATH"] = str(ROOT)
    command = (sys.executable, "-m", "loadtests.openloop", "replay", *arguments)
    return await run_command(command, SECONDS_MAX, environment)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with own_server() as started:
        yield started


@pytest.fixture(scope="module")
async def bank() -> AsyncIterator["asyncio.Task[Done]"]:
    """
    A replay of the bank's first rows on its own server, which goes on while other tests run.
    """
    running = asyncio.create_task(replay("--rows", "1500"))
    yield running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def books(tmp_path: Path) -> Path:
    path = tmp_path / "books.csv"
    path.write_text("\n".join([HEADER, *BOOKS, ""]))
    return path


def falsify(books: Path) -> None:
    """
    Make a balance in the books one cent higher than the ledger's.
    """
    books.write_text(books.read_text().replace(",-20000,", ",-19999,"))


async def test_books_that_hold(bank: object, server: Server, books: Path) -> None:
    """
    Correct books pass, and a second run finds them in the ledger.
    """
    key = await server.create_key("replay-holds")
    arguments = ("--url", server.url, "--data", str(books))
    first = await replay(*arguments, key=key)
    assert first.code == 0, first.output
    assert "first pass: 8 transfers" in first.output
    assert "2 balances at the end of a month read" in first.output
    assert "12 of twice 6 rows posted, 0 mismatches" in first.output
    second = await replay(*arguments, key=key)
    assert second.code == 0, second.output
    assert "12 of twice 6 rows posted, 0 mismatches" in second.output


async def test_a_wrong_balance_is_found(server: Server, books: Path) -> None:
    """
    If a balance in the books is one cent off, the row is named and the run fails.
    """
    falsify(books)
    key = await server.create_key("replay-wrong")
    done = await replay("--url", server.url, "--data", str(books), key=key)
    assert done.code == 1, done.output
    expected = "row 3 (trans_id 13, account berka:1), balance: expected -19999, got -20000"
    assert expected in done.output
    assert "rows posted, 1 mismatches" in done.output


async def test_too_many_wrong_balances_end_the_run(server: Server, tmp_path: Path) -> None:
    """
    A file with too many wrong balances is not posted to its end.
    """
    path = tmp_path / "books.csv"
    lines = [f"{n},{n},1,990101,+,100,{n},0,VKLAD,," for n in range(1, 101)]
    path.write_text("\n".join([HEADER, *lines]))
    key = await server.create_key("replay-all-wrong")
    done = await replay("--url", server.url, "--data", str(path), key=key)
    assert done.code == 1, done.output
    assert "stopped early: too many mismatches" in done.output
    assert "20 of twice 100 rows posted, 20 mismatches" in done.output


async def test_the_audit_counts(
    server: Server, books: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Even if every balance is right, the audit's exit code counts.
    """

    class Audited:
        url, log = server.url, server.log
        create_key = server.create_key

        async def audit(self) -> Done:
            return Done(1, "one account differs", "")

    @asynccontextmanager
    async def own() -> AsyncIterator[Audited]:
        yield Audited()

    monkeypatch.setattr(program, "own_server", own)
    assert await program.run(argparse.Namespace(url=None, key=None, data=books, rows=None)) == 1
    said = capsys.readouterr().out
    assert "audit: one account differs" in said


async def test_an_unknown_key_is_said(server: Server, books: Path) -> None:
    """
    A key that the server does not know ends the run before it starts.
    """
    done = await replay("--url", server.url, "--data", str(books), "--key", "made-up")
    assert done.code == 2
    assert "401 unauthorized" in done.last_lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--data", "nowhere.csv"), "there is no data file", id="no data"),
        pytest.param(("--url", "http://127.0.0.1:9"), "needs --key", id="no key"),
        pytest.param(("--url", "127.0.0.1:9", "--key", "k"), "not an address of the form http", id="no address"),
        pytest.param(("--rows", "0"), "has no rows", id="no rows"),
        pytest.param(
            ("--url", "http://127.0.0.1:9", "--key", "k"), "ConnectionRefusedError", id="nothing listens there"
        ),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: tuple[str, ...],
    message: str,
    books: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    A run that cannot begin ends with 2 and one sentence, without waiting for a missing server.
    """
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert main(["replay", "--data", str(books), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.skipif(not DATA.exists(), reason="the bank's books are not beside this checkout")
async def test_the_first_rows_of_the_bank(bank: "asyncio.Task[Done]") -> None:
    """
    On the replay's own server, every balance is the bank's, the second pass changes nothing, and the audit is clean.
    """
    done = await bank
    assert done.code == 0, done.output
    assert "3,000 of twice 1,500 rows posted, 0 mismatches" in done.output
    assert done.last_line.startswith("audit: all:")
    assert done.last_line.endswith(": clean")
