"""Where a command's words go: full, closed, without a reader, without letters; and what never goes there."""

import asyncio
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from loadtests.processes import free_port
from server.cli import main
from server.process.commands.exits import masked
from tests.support.command import NO_REDIS, Ended, call, ended, environment, run
from tests.support.postgres import administer
from tests.support.service import make_key
from tests.support.waiting import until

TALLYSTICK = f"{shlex.quote(sys.executable)} -m server.cli"
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
NO_SPACE = "tallystick: standard output cannot be written: No space left on device"
CLOSED = "tallystick: standard output cannot be written: it is closed\n"
# Bytes that are not UTF-8, as Python represents them in an argument.
LATIN_1 = "Gr\udcf6\udcdfe"
TOKEN = "tsk_1_0123456789abcdef_" + "ab" * 36
CONSOLE_TOKEN = "z-ababababab" * 3 + "zabcdeA"
FERNET_KEY = f"{CONSOLE_TOKEN}="
START_SECONDS = 30.0


async def begin(line: str, **variables: str) -> asyncio.subprocess.Process:
    """Start a line of a shell, in which `tallystick` is the command."""
    settings = {name if name.isupper() else f"TALLYSTICK_{name.upper()}": value for name, value in variables.items()}
    return await asyncio.create_subprocess_exec(
        *("sh", "-c", line.replace("tallystick", TALLYSTICK)),
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def shell(line: str, **variables: str) -> Ended:
    """Run such a line to its end."""
    return await ended(await begin(line, **variables))


async def live_keys(url: str) -> int:
    """Return how many keys open anything."""
    return len(await administer(url, "SELECT FROM tallystick.api_keys WHERE revoked_at IS NULL"))


@FULL
@pytest.mark.parametrize("words", ["config", "keys list", "doctor", "audit", "migrate", "--help", "--version"])
async def test_a_full_output(database_url: str, words: str) -> None:
    """It is named as what failed, whichever the command."""
    await make_key(database_url, "books")
    end = await shell(f"tallystick {words} >/dev/full", database_url=database_url, redis_url=NO_REDIS)
    assert (end.code, end.err) == (2, f"{NO_SPACE}\n")


@pytest.mark.parametrize("words", ["config", "keys list", "doctor", "audit", "migrate", "--version"])
async def test_a_closed_output(database_url: str, words: str) -> None:
    """So is one that is closed."""
    await make_key(database_url, "books")
    end = await shell(f"tallystick {words} >&-", database_url=database_url, redis_url=NO_REDIS)
    assert (end.code, end.err) == (2, CLOSED)


@pytest.mark.parametrize("words", ["keys list", "doctor", "--version"])
async def test_no_output_at_all(database_url: str, words: str) -> None:
    """With all three closed the exit code says it alone, and no connection takes their place."""
    await make_key(database_url, "books")
    end = await shell(f"tallystick {words} <&- >&- 2>&-", database_url=database_url, redis_url=NO_REDIS)
    assert (end.code, end.out, end.err) == (2, "", "")


@FULL
async def test_an_error_that_cannot_be_written(database_url: str) -> None:
    """The exit code is that of the error."""
    for line in (
        "tallystick keys list --ledger no 2>/dev/full",
        "tallystick nonsense 2>&-",
        "tallystick keys 2>/dev/full",
    ):
        assert (await shell(line, database_url=database_url)).code == 2


@pytest.mark.parametrize("words", ["config", "keys list", "--help"])
async def test_a_reader_that_went(database_url: str, words: str) -> None:
    """A command whose reader has had enough ends like one that SIGPIPE has ended, without a word."""
    await make_key(database_url, "books")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.cli", *words.split()),
            env=environment({"TALLYSTICK_DATABASE_URL": database_url}),
            stdout=writer,
            stderr=asyncio.subprocess.PIPE,
        )
    finally:
        os.close(writer)
    _, err = await asyncio.wait_for(child.communicate(), START_SECONDS)
    assert (child.returncode, err) == (128 + signal.SIGPIPE, b"")


@FULL
async def test_a_key_that_cannot_be_shown(database_url: str) -> None:
    """No key lives that nobody saw: it is not made without an output, and revoked when it cannot be printed."""
    create = "tallystick keys create --ledger books --role read"
    end = await shell(f"{create} >&-", database_url=database_url)
    assert (end.code, end.err) == (2, CLOSED)
    assert await administer(database_url, "SELECT FROM tallystick.api_keys") == []
    end = await shell(f"{create} >/dev/full", database_url=database_url)
    assert (end.code, end.err) == (2, f"{NO_SPACE}; the new key has been revoked\n")
    assert len(await administer(database_url, "SELECT FROM tallystick.api_keys")) == 1
    assert await live_keys(database_url) == 0


@FULL
@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"], ids=["closed", "full"])
async def test_a_server_without_outputs_serves(database_url: str, redirections: str) -> None:
    """A server without outputs serves, and ends on SIGTERM."""
    port = free_port()
    child = await begin(
        f"exec tallystick serve --port {port} {redirections}", database_url=database_url, redis_url=NO_REDIS
    )

    async def ready() -> bool:
        assert child.returncode is None
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    try:
        await until(ready, START_SECONDS)
    finally:
        os.kill(child.pid, signal.SIGTERM)
        end = await ended(child)
    assert end == (0, "", "")


# A locale of ASCII, and Python as it was before it took such a one for UTF-8.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


NO_UTF8 = "tallystick: an argument is not UTF-8\n"
NO_NAME = "tallystick: a ledger's name has 1 to 64 letters"


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, ASCII, {"LC_ALL": "C.UTF-8"}], ids=["C", "ASCII", "UTF-8"])
async def test_names_that_are_no_ascii(database_url: str, locale: dict[str, str]) -> None:
    """A ledger's name with an umlaut is refused as what it is, in any locale; what is printed may have any letters."""
    for name in ("Größe", "$(printf 'Gr\\366\\337e')"):
        end = await shell(f"tallystick keys list --ledger {name}", database_url=database_url, **locale)
        assert (end.code, end.out) == (2, "")
        assert end.err.startswith(NO_NAME if name == "Größe" and locale is not ASCII else NO_UTF8), end
    end = await shell("tallystick config --data-dir Größe", **locale)
    if locale is ASCII:
        assert (end.code, end.err) == (2, NO_UTF8)
    else:
        assert (end.code, end.err) == (0, "")
        assert "data_dir" in end.out


@pytest.mark.parametrize("words", ["keys create --role read", "keys list", "keys revoke 0123456789abcdef", "audit"])
async def test_every_command_refuses_such_names(database_url: str, words: str) -> None:
    """Whichever command is given the name."""
    for name, sentence in (("Größe", NO_NAME), (LATIN_1, NO_UTF8)):
        end = await call(*words.split(), "--ledger", name, database_url=database_url, redis_url=NO_REDIS)
        assert (end.code, end.out) == (2, "")
        assert end.err.startswith(sentence), end


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "create", "--ledger", "books", "--role", "read", "--description", LATIN_1),
        ("keys", "limit", "--ledger", "books", "0" * 16, "--accounts", LATIN_1),
        (
            "sinks",
            "create",
            "kafka",
            "--name",
            "k",
            "--ledger",
            "books",
            "--bootstrap",
            "h:1",
            "--topic",
            "t",
            "--username",
            LATIN_1,
        ),
        ("export", "--ledger", "books", "--format", "csv", "--from", LATIN_1),
    ],
    ids=lambda words: " ".join(words[:2]),
)
async def test_words_that_are_not_utf8(database_url: str, words: tuple[str, ...]) -> None:
    """They are refused before anything is done: no ledger is made for them."""
    end = await call(*words, database_url=database_url, redis_url=NO_REDIS)
    assert end == (2, "", NO_UTF8)
    assert await administer(database_url, "SELECT FROM tallystick.ledgers") == []


async def test_files_may_have_any_name(database_url: str, tmp_path: Path) -> None:
    """The name of a file need not be UTF-8."""
    await make_key(database_url, "books")
    file = tmp_path / LATIN_1
    end = await call("export", "--ledger", "books", "--format", "csv", "--output", str(file), database_url=database_url)
    assert (end.code, end.err, file.exists()) == (0, "", True)


@pytest.fixture
async def token(database_url: str) -> str:
    """A whole key of the ledger books."""
    return await make_key(database_url, "books", "read")


async def test_a_whole_key_is_revoked(database_url: str, token: str) -> None:
    """What is pasted may be the key itself; its ledger need not be named, and naming another one is refused."""
    await make_key(database_url, "others")
    end = await call("keys", "revoke", "--ledger", "others", token, database_url=database_url)
    assert (end.code, end.out) == (2, "")
    assert end.err == f"tallystick: the ledger others has no key {token.split('_')[2]}\n"
    assert await live_keys(database_url) == 2
    for words in (("--ledger", "books", token), (f" {token}\n",)):
        end = await call("keys", "revoke", *words, database_url=database_url)
        assert (end.code, end.out, end.err) == (0, "", "")
        assert await live_keys(database_url) == 1


async def test_a_whole_key_is_limited(database_url: str, token: str) -> None:
    """Its limits are changed, and it is shown by its public id."""
    end = await call("keys", "limit", token, "--rate", "5/s", database_url=database_url)
    assert (end.code, end.err) == (0, "")
    assert end.out.splitlines()[1].startswith(f"books   {token.split('_')[2]}  read  ")
    assert token[-72:] not in end.out


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("keys", "revoke", TOKEN), id="a wrong checksum"),
        pytest.param(("keys", "revoke", "--ledger", "books", TOKEN), id="a wrong checksum with its ledger"),
        pytest.param(("keys", "revoke", "--ledger", "books", TOKEN[-72:]), id="the secret alone"),
        pytest.param(("keys", "revoke", "--ledger", "books", TOKEN[:60]), id="the first half"),
        pytest.param(("keys", "limit", "--ledger", "books", TOKEN, "--rate", "1/s"), id="of limit"),
        pytest.param(("keys", "limit", "--ledger", "books", "0" * 16, "--rate", TOKEN), id="as a rate"),
        pytest.param(("keys", "limit", "--ledger", "books", "0" * 16, "--burst", TOKEN), id="as a burst"),
        pytest.param(("keys", "limit", "--ledger", "books", "0" * 16, f"--burst={TOKEN}"), id="as a burst, joined"),
        pytest.param(("keys", "list", "--ledger", TOKEN), id="as a ledger"),
        pytest.param(("keys", "list", TOKEN), id="one word too many"),
        pytest.param(("keys", TOKEN), id="as an action"),
        pytest.param((TOKEN,), id="as a command"),
        pytest.param(("keys", "create", "--ledger", "books", "--role", TOKEN), id="as a role"),
        pytest.param(("keys", "list", f"--{TOKEN}"), id="as an option"),
        pytest.param(("keys", "list", f"--key={TOKEN}"), id="as an option's value"),
        pytest.param(("audit", "--ledger", TOKEN), id="of audit"),
        pytest.param(("audit", "--metrics", f"/nowhere/{TOKEN}"), id="as a file"),
        pytest.param(("serve", "--workers", TOKEN), id="as a setting"),
        pytest.param(("serve", "--host", TOKEN), id="as a host"),
        pytest.param(("serve", "--data-dir", TOKEN, "--port", TOKEN), id="as a port"),
        pytest.param(("config", "--database-url", "postgresql://u:abababababab@db/x"), id="an address"),
        pytest.param(("config", "--database-url", "postgresql://u:x ababababab@db/x"), id="a password with a blank"),
        pytest.param(("doctor", "--webhook-key", FERNET_KEY), id="a key of webhooks"),
        pytest.param(("doctor", f"--webhook-key={FERNET_KEY}"), id="a key of webhooks, joined"),
        pytest.param(("doctor", f"--json={FERNET_KEY}"), id="to an option without a value"),
        pytest.param(("doctor", CONSOLE_TOKEN), id="a token of the console"),
        pytest.param((CONSOLE_TOKEN,), id="a token of the console as a command"),
    ],
)
async def test_a_secret_is_never_repeated(database_url: str, words: tuple[str, ...]) -> None:
    """A key pasted where it does not belong is refused, and not shown again."""
    command = run if words[0] == "serve" else call
    end = await command(*words, database_url=database_url, redis_url=NO_REDIS)
    assert end.code == 2
    assert "ababababab" not in end.out + end.err
    assert re.search(r"^tallystick.*: ", end.err, re.MULTILINE)


async def test_a_public_id_needs_its_ledger(database_url: str) -> None:
    """A public id contains no ledger."""
    for action in ("revoke", "limit"):
        end = await call("keys", action, "0" * 16, database_url=database_url)
        assert (end.code, end.out, end.err) == (2, "", "tallystick: a public id needs --ledger too\n")


def test_masked() -> None:
    """What may be a secret is left out of a sentence, and the rest stays."""
    assert masked(
        f"no {TOKEN}, no postgresql://u:p /w@h/x?password=x&a=b, "
        f"no whsec_a+/b=, no {'0f' * 16}, no {FERNET_KEY}, but {'0f' * 8}"
    ) == (f"no tsk_..., no postgresql://...@h/x?password=...&a=b, no whsec_..., no ..., no ..., but {'0f' * 8}")


async def test_an_argument_there_is_not() -> None:
    """An option is named, without its value."""
    end = await call("doctor", "--webhook-key", "x", "--speed=1", "y")
    assert end.err.splitlines()[-1] == "tallystick: error: unrecognized arguments --webhook-key --speed"


async def test_version() -> None:
    """The version is printed, and nothing else."""
    end = await run("--version")
    assert (end.code, end.err) == (0, "")
    assert re.fullmatch(r"tallystick \S+\n", end.out)


def test_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends in a sentence too, which says where and never what it was about."""

    def broken(*_: object) -> int:
        raise RuntimeError(TOKEN)

    monkeypatch.setattr("server.cli.operating._config", broken)
    assert main(["config"]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"tallystick: a bug in this program \(RuntimeError at test_cli_output.py:\d+\): .*\n", err)
