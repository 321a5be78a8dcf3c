"""`tallystick pay`: an amount is paid once, and words and exit code tell the payer the outcome."""

import asyncio
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from loadtests.processes import free_port
from tests.cli.conftest import Shell
from tests.cli.lossy import losing_answers
from tests.support.command import ended, environment

PAY = ("pay", "world", "alice", "12.50", "EUR")
UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
# Seconds until a command gives up on a server that does not answer.
SHORT = "1"


async def balance(shell: Shell, account: str = "alice") -> int:
    """Return the minor units of an account."""
    return int((await shell.json("accounts", "get", account))["balance"])


async def test_paid(books: Shell) -> None:
    """The amount moves; people and programs are shown the transfer, both balances and the key."""
    shown = await books.record(*PAY, "--reference", "order 7", "--description", "Größe", "--metadata", "shop=1")
    assert (shown["state"], shown["amount"], shown["currency"]) == ("posted", "12.50", "EUR")
    assert (shown["source_balance"], shown["destination_balance"]) == ("-12.50", "12.50")
    assert (shown["reference"], shown["description"], shown["metadata"]) == ("order 7", "Größe", "shop=1")
    assert UUID.fullmatch(shown["idempotency_key"])
    again = await books.json("idempotency-keys", "get", shown["idempotency_key"])
    assert (again["id"], again["amount"], again["metadata"]) == (shown["id"], 1250, {"shop": "1"})
    assert await balance(books) == 1250


async def test_paid_once(books: Shell) -> None:
    """With the caller's key it is paid once, however often it is sent; without a key, each time."""
    first = await books.json(*PAY, "--key", "order-7")
    assert first["replayed"] is False
    assert await books.json(*PAY, "--key", "order-7") == {**first, "replayed": True}
    again = await books.record("transfers", "create", *PAY[1:], "--key", "order-7")
    assert (again["id"], again["replayed"]) == (first["id"], "yes")
    assert await balance(books) == 1250
    assert (await books.json(*PAY))["id"] != first["id"]
    assert await balance(books) == 2500


async def test_done_once(books: Shell) -> None:
    """A repeated command under the same key is shown as a replay."""
    hold = (await books.json(*PAY, "--hold", "--key", "hold"))["id"]
    other = (await books.json(*PAY, "--hold"))["id"]
    paid = (await books.json(*PAY))["id"]
    for words in (
        (*PAY, "--hold", "--key", "hold"),
        ("transfers", "capture", hold, "--key", "capture"),
        ("transfers", "void", other, "--key", "void"),
        ("transfers", "reverse", paid, "--key", "reverse"),
    ):
        first, again = await books.json(*words), await books.record(*words)
        assert (first["replayed"], again["replayed"]) == ("--hold" in words, "yes"), words


async def test_minor_units(books: Shell) -> None:
    """`--minor` marks amounts in minor units; currencies not in ISO 4217 have no others."""
    assert (await books.json("pay", "world", "alice", "5", "EUR", "--minor"))["amount"] == 5
    for name in ("mint", "bob"):
        await books.done("accounts", "create", name, "POINTS", "--floor", "-100", "--minor")
    end = await books.run("pay", "mint", "bob", "7", "POINTS")
    assert (end.code, end.out) == (2, "")
    sentence = "POINTS is not a currency of ISO 4217: give its amounts in minor units, with --minor"
    assert end.err == f"tallystick: {sentence}\n"
    assert (await books.record("pay", "mint", "bob", "7", "POINTS", "--minor"))["amount"] == "7"


async def test_a_hold(books: Shell) -> None:
    """A hold reserves, its captures move parts, and reversals move them back, in amounts of the currency."""
    hold = (await books.json(*PAY, "--hold", "--expires-in", "60"))["id"]
    await books.done("transfers", "capture", hold, "--amount", "2.50", "--keep-rest")
    shown = await books.record("transfers", "get", hold)
    assert (shown["hold"], shown["captured"], shown["remaining"]) == ("open", "2.50", "10.00")
    assert (await books.json("transfers", "capture", hold, "--amount", "1000", "--minor"))["amount"] == 1000
    end = await books.run("transfers", "void", hold)
    assert (end.code, end.out) == (3, "")
    assert end.err.startswith("tallystick: hold_not_open (409): ")
    paid = (await books.json(*PAY))["id"]
    await books.done("transfers", "reverse", paid, "--amount", "0.50", "--key", "back")
    assert (await books.record("transfers", "get", paid))["reversed"] == "0.50"
    other = (await books.json(*PAY, "--hold"))["id"]
    assert (await books.record("transfers", "void", other))["kind"] == "void"
    assert await balance(books) == 1250 + 1250 - 50


REFUSED = [
    pytest.param(("pay", "alice", "world", "99", "EUR"), 3, "insufficient_funds (409): .*99.00 EUR", id="no money"),
    pytest.param(("pay", "nobody", "alice", "1", "EUR"), 3, "account_not_found (404)", id="no account"),
    pytest.param(("pay", "world", "alice", "1", "USD"), 3, "currency_mismatch (409)", id="another currency"),
    pytest.param(("transfers", "void", "nothing"), 3, "transfer_not_found (404)", id="no hold"),
    pytest.param(("pay", "alice", "alice", "1", "EUR"), 2, "invalid_request (400): /destination: ", id="to itself"),
    pytest.param(("pay", "a b", "alice", "1", "EUR"), 2, "invalid_request (400)", id="an account that can be none"),
    pytest.param((*PAY, "--expires-in", "5"), 2, "invalid_request (400)", id="no hold expires"),
    pytest.param((*PAY, "--effective-at", "2999-01-01"), 2, "invalid_request (400)", id="a date to come"),
    pytest.param((*PAY[:3], "1.005", "EUR"), 2, "EUR has 2 decimals, but the amount has 3", id="too many decimals"),
    pytest.param((*PAY[:3], "-1", "EUR"), 2, "an amount must be more than zero", id="below zero"),
    pytest.param((*PAY[:4], "eur"), 2, "a currency has 3 to 8 capital letters", id="a currency in small letters"),
    pytest.param((*PAY, "--key", ""), 2, "an idempotency key must have 1 to 255", id="an empty key"),
    pytest.param((*PAY, "--key", "a b"), 2, "an idempotency key must have 1 to 255", id="a key with a blank"),
    pytest.param((*PAY, "--reference", "\udcff"), 2, "an argument is not UTF-8", id="bytes that are no text"),
    pytest.param((*PAY, "--reference", "a\0b"), 2, "invalid_request (400)", id="NUL"),
]


@pytest.mark.parametrize(("words", "code", "sentence"), REFUSED)
async def test_refused(books: Shell, words: tuple[str, ...], code: int, sentence: str) -> None:
    """A refusal says why and what to do; refusals by the ledger have their own exit code."""
    end = await books.run(*words)
    assert (end.code, end.out) == (code, "")
    assert re.match(f"tallystick: {re.escape(sentence).replace(re.escape('.*'), '.*')}", end.err), end
    if "(4" in sentence:
        assert re.search(r"^  request id: \S+$", end.err, re.MULTILINE)
    if code == 3:
        assert "\n  what to do: " in end.err
    assert await balance(books) == 0


async def test_a_key_of_another_payment(books: Shell) -> None:
    """Nothing is paid under the key of another payment."""
    paid = await books.json(*PAY, "--key", "order-7", "--json")
    end = await books.run("pay", "world", "alice", "3", "EUR", "--key", "order-7")
    assert (end.code, end.out) == (3, "")
    assert end.err.startswith("tallystick: idempotency_key_reused (422): ")
    assert f"the key belongs to another payment (transfer {paid['id']}): " in end.err
    assert "once the cause is gone" not in end.err
    assert await balance(books) == 1250


async def test_a_server_that_is_away(books: Shell) -> None:
    """If the server does not answer, nothing was paid, and the exit code says that a retry is possible."""
    end = await books.run(*PAY, "--deadline", SHORT, url=f"http://127.0.0.1:{free_port()}")
    assert (end.code, end.out) == (5, "")
    assert re.fullmatch(r"tallystick: http://127.0.0.1:\d+ does not answer: .+\n", end.err)


async def test_an_unknown_outcome(books: Shell) -> None:
    """If all answers are lost, the key is shown with two commands to continue, and both work as printed."""
    async with losing_answers(books.url) as url:
        end = await books.run(*PAY, "--reference", "a b", "--deadline", SHORT, url=url)
    assert (end.code, end.out) == (4, "")
    first, ask, send = end.err.splitlines()
    assert first.startswith("tallystick: the outcome is unknown: ")
    found = await books.json(*shlex.split(ask.partition("tallystick ")[2]))
    again = await books.json(*shlex.split(send.partition("tallystick ")[2]))
    assert found["id"] == again["id"]
    assert again["reference"] == "a b"
    assert await balance(books) == 1250


async def test_an_unknown_outcome_under_a_key(books: Shell) -> None:
    """The caller's own key is shown as given, quoted for the shell."""
    key = "0" * 40 + "'"
    async with losing_answers(books.url) as url:
        words = (*PAY, "--key", key, "--deadline", SHORT, "--url", url)
        end = await books.run(*words)
    assert end.code == 4
    _, ask, send = (shlex.split(line.partition("tallystick ")[2]) for line in end.err.splitlines())
    assert ask == ["idempotency-keys", "get", key, "--url", url]
    assert send == list(words)
    assert (await books.json(*PAY, "--key", key))["amount"] == 1250
    assert await balance(books) == 1250


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted(books: Shell, sent: signal.Signals) -> None:
    """After Ctrl-C or a termination signal during a payment, the key is shown too."""
    asked = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await stopped.wait()
        writer.close()

    stopped = asyncio.Event()
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.cli", *PAY),
        env=environment({"TALLYSTICK_URL": url, "TALLYSTICK_API_KEY": books.token}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await asyncio.wait_for(asked.wait(), 30)
        os.kill(child.pid, sent)
        end = await ended(child)
    finally:
        stopped.set()
        server.close()
        await server.wait_closed()
    assert (end.code, end.out) == (4, "")
    assert end.err.startswith("tallystick: the outcome is unknown: interrupted before the answer came\n")
    assert UUID.search(end.err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
async def test_an_output_that_cannot_be_written(books: Shell) -> None:
    """Without an output nothing is paid; if writing fails afterwards, the message says that it was paid."""
    for redirection, paid in ((">&-", 0), (">/dev/full", 1250)):
        child = await asyncio.create_subprocess_exec(
            *("sh", "-c", f"{shlex.quote(sys.executable)} -m server.cli {shlex.join(PAY)} --key k {redirection}"),
            env=environment({"TALLYSTICK_URL": books.url, "TALLYSTICK_API_KEY": books.token}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        end = await ended(child)
        assert end.code == 2
        assert ("is posted, under the idempotency key k" in end.err) == bool(paid)
        assert await balance(books) == paid
