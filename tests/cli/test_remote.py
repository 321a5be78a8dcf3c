"""Accounts, transfers and events on the command line: what is shown and changed, and how the server is found."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest

from loadtests.processes import free_port
from tests.cli.conftest import Shell
from tests.support.client import Client
from tests.support.command import call, ended, environment
from tests.support.events import relaying
from tests.support.listening import stop_accepting
from tests.support.service import Service
from tests.support.waiting import WAIT_SECONDS

ALICE = ("accounts", "get", "alice")


async def test_accounts(shell: Shell) -> None:
    """An account is opened, shown, changed and closed; its limits are amounts of its currency, or none."""
    create = ("accounts", "create", "alice", "EUR", "--floor", "-5.00", "--ceiling", "20", "--metadata", "tier=gold")
    opened = await shell.record(*create, "--metadata", "city=Köln")
    assert (opened["floor"], opened["ceiling"], opened["closed"]) == ("-5.00", "20.00", "no")
    assert opened["metadata"] == "city=Köln, tier=gold"
    # The same fields in another order are the same account.
    assert await shell.record(*create, "--metadata", "city=Köln") == opened
    update = ("accounts", "update", "alice", "--ceiling", "none", "--floor", "0.05", "--metadata", "tier=")
    end = await shell.run(*update, "--if-version", "7")
    assert (end.code, end.err.partition(":")[2].split()[0]) == (3, "precondition_failed")
    changed = await shell.json(*update, "--if-version", opened["version"])
    assert (changed["floor"], changed["ceiling"], changed["metadata"]) == (5, None, {"city": "Köln"})
    assert (await shell.record("accounts", "close", "alice"))["closed"] == "yes"
    assert (await shell.json(*ALICE))["closed"] is True


async def test_a_list_of_accounts(books: Shell) -> None:
    """A list has a row for each account, as a table and as JSON; a message says if there are more."""
    await books.done("pay", "world", "alice", "12.50", "EUR")
    rows = [
        ["alice", "EUR", "12.50", "12.50", "0.00", "0.00", "no"],
        ["world", "EUR", "-12.50", "-12.50", "0.00", "0.00", "no"],
    ]
    assert await books.rows("accounts", "list") == rows
    assert await books.rows("accounts", "list", "--prefix", "wor") == rows[1:]
    assert [(row["id"], row["balance"]) for row in await books.json("accounts", "list")] == [
        ("alice", 1250),
        ("world", -1250),
    ]
    end = await books.run("accounts", "list", "--limit", "1")
    assert (end.code, len(end.out.splitlines())) == (0, 2)
    assert end.err == "tallystick: there are more than these 1: use --limit N or --limit all\n"
    assert await books.done("accounts", "list", "--prefix", "nobody", "--json") == "[]\n"


async def test_all_pages(books: Shell, client: Client) -> None:
    """A list continues over all pages of the server."""
    opened = [{"id": f"many:{number:03}", "currency": "EUR"} for number in range(150)]
    await client.post("/v1/accounts/bulk", {"accounts": opened})
    many = ("accounts", "list", "--prefix", "many:")
    assert len(await books.rows(*many, "--limit", "all")) == len(await books.json(*many, "--limit", "150")) == 150
    assert len((await books.run(*many)).out.splitlines()) == 1 + 100


async def test_transfers(books: Shell) -> None:
    """Transfers are found by account, reference, kind, metadata and time, newest first."""
    paid = await books.json("pay", "world", "alice", "1", "EUR", "--reference", "order-7", "--metadata", "shop=1")
    held = await books.json("pay", "world", "alice", "2", "EUR", "--hold")
    rows = await books.rows("transfers", "list")
    assert [row[:6] for row in rows] == [
        [held["id"], "hold", "world", "alice", "2.00", "EUR"],
        [paid["id"], "transfer", "world", "alice", "1.00", "EUR"],
    ]
    for words in (
        ("--reference", "order-7"),
        ("--kind", "transfer"),
        ("--metadata", "shop=1"),
        ("--to", held["created_at"]),
        ("--account", "alice", "--from", paid["created_at"], "--to", held["created_at"]),
    ):
        assert [row["id"] for row in await books.json("transfers", "list", *words)] == [paid["id"]], words
    assert await books.json("transfers", "list", "--from", "2999-01-01") == []


async def test_statements(books: Shell) -> None:
    """Entries, past balances and statements are shown in the account's currency."""
    await books.done("pay", "world", "alice", "12.50", "EUR", "--effective-at", "2026-01-31")
    await books.done("pay", "alice", "world", "2", "EUR")
    entries = await books.rows("accounts", "entries", "alice")
    assert [row[1:5] for row in entries] == [
        ["transfer", "world", "-2.00", "10.50"],
        ["transfer", "world", "12.50", "12.50"],
    ]
    by = ("--by", "effective")
    past = ("accounts", "balance", "alice", "--at", "2026-02-01")
    assert [(await books.record(*past, *words))["balance"] for words in ((), by)] == ["0.00", "12.50"]
    assert (await books.record("accounts", "balance", "alice"))["balance"] == "10.50"
    lines = (await books.done("accounts", "statement", "alice", "--from", "2026-02-01", *by)).splitlines()
    assert (lines[0], lines[-1]) == ("opening balance: 12.50 EUR", "closing balance: 10.50 EUR")
    assert [line.split()[3:5] for line in lines[2:-1]] == [["-2.00", "10.50"]]
    whole = await books.json("accounts", "statement", "alice")
    assert (whole["opening_balance"], len(whole["entries"]), whole["closing_balance"]) == (0, 2, 1050)


async def test_events(books: Shell, service: Service) -> None:
    """Events are listed in order, filtered by type and account."""
    await books.done("pay", "world", "alice", "12.50", "EUR")
    async with relaying(service.database_url):
        async with asyncio.timeout(WAIT_SECONDS):
            while len(rows := await books.rows("events", "list")) < 3:
                pass
    assert [(row[0], row[2]) for row in rows] == [
        ("1", "account.created"),
        ("2", "account.created"),
        ("3", "transfer.posted"),
    ]
    assert [row[3] for row in await books.rows("events", "list", "--account", "world", "--after", "1")] == [rows[2][3]]
    words = ("events", "list", "--type", "account.created", "--type", "account.closed")
    assert [event["position"] for event in await books.json(*words)] == [1, 2]
    end = await books.run("events", "list", "--limit", "2")
    assert "there are more than these 2" in end.err


async def test_following(books: Shell, service: Service) -> None:
    """Each event is printed as it happens, until Ctrl-C."""
    async with relaying(service.database_url):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.cli", "events", "follow", "--after", "1"),
            env=environment({"TALLYSTICK_URL": books.url, "TALLYSTICK_API_KEY": books.token}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            first = (await child.stdout.readline()).decode().split()
            paid = (await books.json("pay", "world", "alice", "12.50", "EUR"))["id"]
            second = (await child.stdout.readline()).decode().split()
        child.send_signal(signal.SIGINT)
        end = await ended(child)
    assert (first[0], first[2]) == ("2", "account.created")
    assert (second[0], second[2:]) == ("3", ["transfer.posted", paid])
    assert (end.code, end.err) == (130, "")


SECRET = f"tsk_1_{'0' * 16}_{'0' * 72}"


@pytest.mark.parametrize(
    "words",
    [
        ("idempotency-keys", "get", SECRET),
        ("accounts", "get", SECRET),
        ("transfers", "list", "--reference", f"for {SECRET}"),
        ("webhook-endpoints", "delete", SECRET),
    ],
    ids=" ".join,
)
async def test_no_secret_in_a_url(words: tuple[str, ...]) -> None:
    """A command refuses to send an API key as a part of a URL, and does not repeat it."""
    # Nothing listens there: a request would fail otherwise.
    end = await Shell("http://127.0.0.1:1", SECRET).run(*words)
    assert end == (2, "", "tallystick: an API key is secret and belongs in no URL: name a thing by its id\n")


async def test_following_nobody(shell: Shell) -> None:
    """The command ends if the server is unreachable for too long."""
    end = await shell.run("events", "follow", "--deadline", "0.3", url=f"http://127.0.0.1:{free_port()}")
    assert (end.code, end.out) == (5, "")
    assert "does not answer" in end.err


WRONG = [
    pytest.param({"api_key": ""}, "no API key: set TALLYSTICK_API_KEY", id="no key"),
    pytest.param({"api_key": "a\nb"}, "TALLYSTICK_API_KEY does not hold a key", id="a key of two lines"),
    pytest.param({"api_key": "\N{SNOWMAN}"}, "TALLYSTICK_API_KEY does not hold a key", id="a key of other letters"),
    pytest.param({"api_key_file": "/nowhere"}, "api_key is set twice", id="two keys"),
    pytest.param({"api_key": "", "api_key_file": "/nowhere"}, "TALLYSTICK_API_KEY_FILE: the file cannot", id="no file"),
    pytest.param({"url": "ftp://127.0.0.1"}, "the address of a server is http://", id="another protocol"),
    pytest.param({"url": "http://u:hunter2@127.0.0.1"}, "the address of a server is", id="a password in the address"),
    pytest.param({"url": "127.0.0.1:8080"}, "the address of a server is", id="no protocol"),
    pytest.param({"api_key": "tsk_1_made_up"}, "unauthorized (401)", id="a key that there is not"),
]


@pytest.mark.parametrize(("variables", "sentence"), WRONG)
async def test_no_way_to_a_server(shell: Shell, variables: dict[str, str], sentence: str) -> None:
    """Without a valid address and key nothing is sent, and no secret is repeated."""
    end = await shell.run(*ALICE, **variables)
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith(f"tallystick: {sentence}"), end
    assert "hunter2" not in end.err
    assert "made_up" not in end.err


async def test_a_proxy_that_needs_a_package(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the environment's proxy cannot be used, the error names it."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    end = await shell.run(*ALICE)
    assert (end.code, end.out) == (2, "")
    assert "SOCKS proxy" in end.err
    assert "bug in this program" not in end.err


async def test_a_key_in_a_file(books: Shell, tmp_path: Path) -> None:
    """The key may come from a file, and the address from an argument."""
    file = tmp_path / "key"
    file.write_text(f"{books.token}\n")
    end = await call(*ALICE, "--url", f"{books.url}/", api_key_file=str(file))
    assert (end.code, end.err) == (0, "")


async def test_a_role_that_may_not(service: Service, ledger: str, books: Shell) -> None:
    """A missing role has the exit code of a command not carried out, not of a refusal by the ledger."""
    reader = Shell(service.url, str((await service.client(ledger, "read")).token))
    end = await reader.run("pay", "world", "alice", "1", "EUR")
    assert (end.code, end.err.split()[1]) == (2, "forbidden")


async def test_the_service_knows_the_names() -> None:
    """Operator commands ignore the settings for commands against a server, and show none of them."""
    end = await call("config", url="http://there", api_key="tsk_1_secret", api_key_file="/nowhere")
    assert (end.code, end.err) == (0, "")
    assert not re.search("tsk_|there|nowhere", end.out)


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("tallystick_client", ALICE, "commands that call a server need the Python client"),
        ("httpx", ALICE, "commands that call a server need the Python client"),
        ("shtab", ("completion", "bash"), "completion needs the package shtab: install tallystick[cli]"),
    ],
)
async def test_without_a_package(
    shell: Shell, tmp_path: Path, module: str, words: tuple[str, ...], sentence: str
) -> None:
    """Without an optional package, commands that need it say what to install, and the others work."""
    (tmp_path / f"{module}.py").write_text("raise ModuleNotFoundError(__name__)")
    for command, code in ((words, 2), (("--help",), 0), (("config",), 0)):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.cli", *command),
            env={**environment({"TALLYSTICK_API_KEY": shell.token}), "PYTHONPATH": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        end = await ended(child)
        assert end.code == code, end
        assert end.err.startswith(f"tallystick: {sentence}" if code else "")


ELSEWHERE = "this is not the address of a Tallystick server"
ANSWERS = [
    pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 2, f"404: {ELSEWHERE}", id="another server"),
    pytest.param(
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        2,
        f"302: {ELSEWHERE}: Redirects are not followed; this one leads to /x.",
        id="a redirect",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>", 2, ELSEWHERE, id="a website"
    ),
    pytest.param(
        b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n", 2, "413: The answer does not come from", id="a proxy"
    ),
    pytest.param(b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno", 5, "502: ", id="a proxy without a server"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<p/>", 5, "", id="a page"),
    pytest.param(b"nonsense", 5, "", id="no HTTP"),
    pytest.param(b"", 5, "", id="nothing"),
]


@pytest.mark.parametrize(("answer", "code", "sentence"), ANSWERS)
async def test_no_answer_of_a_ledger(shell: Shell, answer: bytes, code: int, sentence: str) -> None:
    """An answer that is not Tallystick's is reported in a sentence, and not as a refusal by the ledger."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        end = await shell.run(*ALICE, "--deadline", "0.5", url=url)
    finally:
        await stop_accepting([server])
        server.close()
        await server.wait_closed()
    assert (end.code, end.out) == (code, "")
    assert re.match(f"tallystick: {sentence or f'{url} does not answer: '}", end.err), end


@pytest.mark.parametrize("words", [ALICE, ("pay", "world", "alice", "1", "EUR"), ("events", "follow")])
async def test_a_wrong_path(shell: Shell, words: tuple[str, ...]) -> None:
    """A path without Tallystick is reported as a wrong address, and not as a refusal by the ledger."""
    end = await shell.run(*words, "--url", f"{shell.url}/wrong")
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith(f"tallystick: not_found (404): {ELSEWHERE}"), end


@pytest.mark.parametrize("words", [ALICE, ("pay", "world", "alice", "1", "EUR")])
async def test_https_of_a_server_without_it(shell: Shell, words: tuple[str, ...]) -> None:
    """HTTPS to a server that speaks only HTTP fails at once, without retries."""
    url = shell.url.replace("http:", "https:")
    end = await shell.run(*words, url=url)
    assert (end.code, end.out) == (2, "")
    assert re.fullmatch(f"tallystick: {ELSEWHERE}: .*WRONG_VERSION_NUMBER.*\n", end.err), end


async def test_balances(books: Shell) -> None:
    """The trial balance has a row for each currency, and nets to zero."""
    await books.done("accounts", "create", "yen", "JPY")
    await books.done("pay", "world", "alice", "12.50", "EUR")
    assert await books.rows("balances") == [["EUR", "12.50", "12.50", "0.00", "2"], ["JPY", "0", "0", "0", "1"]]
    assert await books.rows("balances", "--prefix", "ali") == [["EUR", "0.00", "12.50", "12.50", "1"]]
    assert (await books.json("balances", "--at", "2026-01-01"))["data"] == []


async def test_webhook_endpoints(shell: Shell) -> None:
    """An endpoint is created, listed, changed and removed; its secret is shown on creation and rotation."""
    create = ("webhook-endpoints", "create", "http://127.0.0.1:9/hook", "--type", "transfer.posted")
    made = await shell.record(*create, "--description", "for Köln")
    assert made["secret"].startswith("whsec_")
    listed = await shell.done("webhook-endpoints", "list")
    assert made["secret"] not in listed
    [cells] = [line.split() for line in listed.splitlines()[1:]]
    assert cells[:2] + cells[3:5] == [made["id"], "enabled", "transfer.posted", "http://127.0.0.1:9/hook"]
    update = ("webhook-endpoints", "update", made["id"])
    assert (await shell.json(*update, "--state", "disabled"))["state"] == "disabled"
    assert (await shell.run(*update)).err == "tallystick: name what to change: --to, --type, --description or --state\n"
    assert (await shell.json("webhook-endpoints", "rotate-secret", made["id"]))["secret"] != made["secret"]
    assert (await shell.record("webhook-endpoints", "test", made["id"]))["delivered"] == "no"
    assert "secret" not in await shell.json("webhook-endpoints", "replay", made["id"], "1")
    for words in (("deliveries",), ("undelivered",)):
        assert isinstance(await shell.json("webhook-endpoints", *words, made["id"]), list)
    assert await shell.done("webhook-endpoints", "delete", made["id"]) == ""
    assert (await shell.run("webhook-endpoints", "get", made["id"])).code == 3
