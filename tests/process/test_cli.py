"""The command line against a database of its own: what is printed, and with which code it ends."""

import argparse
import re
import socket
import sys
from pathlib import Path

import orjson
import pytest

from server.cli import main, parser
from server.cli.reference import commands
from server.settings import Settings
from tests.support.command import NO_REDIS, call, run
from tests.support.postgres import administer
from tests.support.service import ServerProcess, Service, in_process

SECRET = "hunter2"
TOKEN = re.compile(r"tsk_[0-9a-f]{1,16}_([0-9a-f]{16})_[0-9a-f]{72}\n")
AWAY = f"postgresql://postgres:{SECRET}@127.0.0.1:1/tallystick"


@pytest.mark.parametrize("path", [path for path, _ in commands(parser())], ids=" ".join)
def test_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself, and each of its arguments."""
    with pytest.raises(SystemExit) as caught:
        main([*path, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: tallystick {' '.join(path)}".rstrip())
    found = dict(commands(parser()))[path]
    unexplained = [
        action.dest
        for action in found._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert unexplained == []
    assert found.description
    # What is no group of others can be run.
    groups = any(isinstance(action, argparse._SubParsersAction) for action in found._actions)
    assert groups or callable(found.get_default("run"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param([], "COMMAND", id="no command"),
        pytest.param(["keys"], "ACTION", id="no action"),
        pytest.param(["keys", "create", "--ledger", "x"], "--role", id="no role"),
        pytest.param(["keys", "create", "--ledger", "x", "--role", "root"], "invalid choice", id="a role there is not"),
        pytest.param(["serve", "--prot", "1"], "--prot", id="a slip"),
        pytest.param(["serve", "--port", "x"], "port cannot have the value given by --port.", id="a bad value"),
    ],
)
async def test_wrong_words(arguments: list[str], text: str) -> None:
    """What cannot be understood is named, with exit code 2."""
    end = await call(*arguments)
    assert (end.code, end.out) == (2, "")
    assert text in end.err


async def test_wrong_settings() -> None:
    """Every command refuses unknown settings and addresses that mean nothing, without showing what was given."""
    for path in (["migrate"], ["keys", "list"], ["audit"], ["doctor"], ["config"], ["serve"], ["background"]):
        end = await call(*path, database_ulr=SECRET)
        assert (end.code, end.out) == (2, "")
        assert end.err.startswith(
            "tallystick: unknown setting TALLYSTICK_DATABASE_ULR; the settings are TALLYSTICK_HOST"
        )
        assert SECRET not in end.err
    end = await call("migrate", database_url=f"postgresql://u:x/{SECRET}@db/books")
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith("tallystick: database_url cannot have the value given by TALLYSTICK_DATABASE_URL.")
    assert SECRET not in end.err


async def test_empty_settings() -> None:
    """What is empty in the environment is not set, so nothing listens everywhere; as an argument it is refused."""
    end = await call("config", host="", admin_host="", data_dir="", database_url="")
    lines = {line.split()[0]: line.split()[1:] for line in end.out.splitlines()}
    assert (lines["host"], lines["admin_host"]) == (["127.0.0.1", "default"], ["127.0.0.1", "default"])
    assert lines["database_url"] == ["-", "default"]
    for option in ("--host", "--admin-host", "--port", "--admin-port", "--workers", "--data-dir"):
        end = await call("serve", option, "")
        assert (end.code, end.out, end.err) == (2, "", f"tallystick: {option} is empty: leave it out for the default\n")


async def test_config(tmp_path: Path) -> None:
    """Every setting stands on a line with its value and where it came from; secrets are masked."""
    file = tmp_path / "url"
    file.write_text(AWAY)
    end = await call("config", "--data-dir", "there", database_url_file=str(file), port="9000")
    assert (end.code, end.err) == (0, "")
    heading, *rows = end.out.splitlines()
    assert heading.split() == ["NAME", "VALUE", "SOURCE"]
    lines = {line.split()[0]: line.split()[1:] for line in rows}
    assert list(lines) == list(Settings.__struct_fields__)
    assert lines["port"] == ["9000", "TALLYSTICK_PORT"]
    assert lines["data_dir"] == ["there", "--data-dir"]
    assert lines["host"] == ["127.0.0.1", "default"]
    assert lines["database_url"] == ["********", f"TALLYSTICK_DATABASE_URL_FILE={file}"]
    assert SECRET not in end.out


async def test_keys(database_url: str) -> None:
    """A key is made, opens its ledger, is listed by its id, and is revoked; its secret is printed once and alone."""
    end = await run("keys", "create", "--ledger", "books", "--role", "write", database_url=database_url)
    match = TOKEN.fullmatch(end.out)
    assert (end.code, end.err) == (0, "")
    assert match is not None
    token, key_id = match[0].strip(), match[1]
    other = await call("keys", "create", "--ledger", "others", "--role", "read", database_url=database_url)
    async with in_process(database_url) as service:
        assert await status(service, token) == 200
    listed = await call("keys", "list", database_url=database_url)
    assert len(listed.out.splitlines()) == 1 + 2
    listed = await call("keys", "list", "--ledger", "books", database_url=database_url)
    heading, line = listed.out.splitlines()
    assert heading.split("  ")[:2] == ["LEDGER", "ID"]
    assert re.fullmatch(rf"books   {key_id}  write  [0-9TZ:-]{{20}} +- +- +- +-         [0-9TZ:-]+ +active  -", line)
    assert token[-72:] not in listed.out
    [row] = orjson.loads((await call("keys", "list", "--ledger", "books", "--json", database_url=database_url)).out)
    assert (row["ledger"], row["id"], row["role"], row["revoked_at"]) == ("books", key_id, "write", None)
    for _ in range(2):
        end = await call("keys", "revoke", "--ledger", "books", key_id, database_url=database_url)
        assert (end.code, end.out, end.err) == (0, "", "")
    listed = await call("keys", "list", "--ledger", "books", database_url=database_url)
    assert re.search(r" revoked [0-9TZ:-]{20}  -\n$", listed.out)
    async with in_process(database_url) as service:
        assert await status(service, token) == 401
        assert await status(service, other.out.strip()) == 200


async def status(service: Service, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    async with service.session.get(f"{service.url}/v1/accounts", headers=headers) as answer:
        return answer.status


async def test_keys_that_cannot_be(database_url: str, postgres_url: str) -> None:
    """An unknown key, an unknown ledger, a name that is none and a database without a schema are told apart."""
    create = ["keys", "create", "--role", "read", "--ledger"]
    for arguments, url, text in (
        (["keys", "revoke", "--ledger", "books", "0" * 16], database_url, "the ledger books has no key " + "0" * 16),
        (["keys", "list", "--ledger", "books"], database_url, "there is no ledger books"),
        ([*create, "no name"], database_url, "a ledger's name has 1 to 64 letters"),
        ([*create, ""], database_url, "a ledger's name has 1 to 64 letters"),
        (
            [*create, "books"],
            postgres_url,
            "the schema or the service's privileges on it are missing: run `tallystick migrate`",
        ),
        (
            ["keys", "list"],
            postgres_url,
            "the schema or the service's privileges on it are missing: run `tallystick migrate`",
        ),
    ):
        end = await call(*arguments, database_url=url)
        assert (end.code, end.out) == (2, ""), end
        assert end.err.startswith(f"tallystick: {text}"), end
    assert await administer(database_url, "SELECT FROM tallystick.ledgers") == []


async def test_no_postgres() -> None:
    """Where no Postgres answers, each command says so in one line, without the password."""
    for path in (["migrate"], ["audit"], ["keys", "list"]):
        end = await call(*path, database_url=AWAY)
        assert (end.code, end.out) == (2, "")
        assert re.fullmatch(
            r"tallystick: Postgres cannot be reached \(.*\): check TALLYSTICK_DATABASE_URL, .*\n", end.err
        )
        assert SECRET not in end.err


async def test_doctor(database_url: str, postgres_url: str) -> None:
    """What is away or missing is a fault with what to do about it, and the rest is looked at all the same."""
    end = await call("doctor", database_url=database_url, redis_url=NO_REDIS)
    lines = end.out.splitlines()
    assert end.code == 1
    assert {"ok    program", "ok    Postgres", "FAULT Redis"} <= set(lines), end
    assert "check TALLYSTICK_REDIS_URL, and that the server runs" in end.out
    end = await call("doctor", database_url=postgres_url, redis_url=NO_REDIS)
    assert end.code == 1
    assert (
        "FAULT Postgres\n      - the schema or the service's privileges on it are missing: run `tallystick migrate`\n"
        in end.out
    )
    end = await call("doctor", database_url=AWAY, redis_url=NO_REDIS)
    assert end.code == 1
    assert "check TALLYSTICK_DATABASE_URL, and that the server runs" in end.out
    assert SECRET not in end.out + end.err
    end = await call("doctor", database_url=database_url, redis_url=NO_REDIS, workers="64")
    assert (
        "      - it allows 197 connections, but this server may need 656: raise max_connections, or lower workers, "
        in end.out
    )
    await administer(database_url, "DROP INDEX tallystick.transfers_source_index")
    end = await call("doctor", database_url=database_url, redis_url=NO_REDIS)
    assert "      - constraint or index transfers_source_index is missing or not valid\n" in end.out


async def test_port_taken(database_url: str) -> None:
    """`serve` on a port that somebody has ends at once and names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        end = await run("serve", "--port", str(port), database_url=database_url, redis_url=NO_REDIS)
    assert (end.code, end.out) == (2, "")
    assert end.err == f"tallystick: cannot listen on 127.0.0.1:{port}: Address already in use\n" or (
        sys.platform != "linux" and str(port) in end.err
    )


async def test_stopping(server_process: ServerProcess) -> None:
    """SIGTERM and Ctrl-C both end the server with code 0."""
    for number in (15, 2):
        await server_process.start()
        server_process.kill(number)
        assert await server_process.wait() == 0
