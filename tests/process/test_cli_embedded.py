"""The command line with embedded servers: what a newcomer types."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from server.process.embedded.servers import EmbeddedServers
from server.store.migrations import migrate
from tests.process.home import Home, place
from tests.support.client import Client
from tests.support.command import Ended, call, run, start
from tests.support.postgres import administer
from tests.support.waiting import until

CURL_SECONDS = 20.0
BOOK = '{"record":"account","id":"alice","currency":"EUR"}\n'


@pytest.fixture(scope="module")
async def home() -> AsyncIterator[Home]:
    """A server in a place of its own, for all tests here that leave it running."""
    with place() as data_dir:
        serving = Home(data_dir)
        await serving.start()
        yield serving
        await serving.stop()


async def shell(*lines: str) -> list[str]:
    """Run lines in a shell, as pasted, and return what each printed."""
    end = "; echo; ".join(lines) + "; echo"
    child = await asyncio.create_subprocess_exec("sh", "-c", end, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(child.communicate(), CURL_SECONDS)
    assert child.returncode == 0
    return out.decode().splitlines()


def commanded(ended: Ended) -> list[str]:
    assert ended.code == 0, ended
    return ended.out.splitlines()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_three_lines_work(home: Home) -> None:
    """What `serve` prints can be pasted: accounts are opened, money moves, once, and the balance says so."""
    lines = [line.strip() for line in home.welcome if line.startswith("  ")]
    assert [line.split("=")[0].split(" ")[0] for line in lines] == ["KEY", "curl", "curl", "curl"]
    key, accounts, transfer, balance = lines
    said = await shell(key, accounts, transfer, balance, transfer, balance)
    _, opened, moved, read, again, read_again = said
    assert [result["status"] for result in orjson.loads(opened)["results"]] == [201, 201]
    assert orjson.loads(moved)["state"] == "posted"
    assert again == moved
    assert orjson.loads(read)["balance"] == 1250
    assert read_again == read


async def test_commands_find_the_running_server(home: Home) -> None:
    """With its data directory, keys are made, listed and looked after in the database that is being served from."""
    data_dir = ["--data-dir", str(home.data_dir)]
    [token] = commanded(await run("keys", "create", "--ledger", "shop", "--role", "read", *data_dir))
    listed = commanded(await call("keys", "list", "--ledger", "shop", *data_dir))
    assert [line.split()[1] for line in listed[1:]] == [token.split("_")[2]]
    assert commanded(await call("migrate", *data_dir)) == ["nothing to do"]
    assert {line[:5] for line in commanded(await call("doctor", *data_dir))} == {"ok   "}
    assert commanded(await call("audit", *data_dir))[-1].endswith(": clean")


async def test_a_second_server_beside_it(home: Home) -> None:
    """Another data directory is another server with books of its own, and ends alone."""
    with place() as data_dir:
        second = Home(data_dir)
        await second.start()
        assert second.url != home.url
        assert second.key != home.key
        assert re.search(r"  [0-9a-f]{16}  admin  ", (await call("keys", "list", "--data-dir", str(data_dir))).out)
        end = await second.stop(signal.SIGINT)
        assert end.code == 0, end
        assert "Traceback" not in end.err
    assert (await call("keys", "list", "--data-dir", str(home.data_dir))).code == 0


async def test_two_servers_on_one_data_directory(home: Home) -> None:
    """A second `serve` on the same data directory says who serves from it, and leaves it alone."""
    end = await run("serve", "--port", "0", "--data-dir", str(home.data_dir))
    assert (end.code, end.out) == (2, "")
    assert re.search(r"Process \d+ serves from .* already\. End it first, or name another directory", end.err)
    assert commanded(await call("migrate", "--data-dir", str(home.data_dir))) == ["nothing to do"]


async def test_a_server_outlives_the_command_that_was_there_first() -> None:
    """`serve` waits for a command that started servers for itself, and does not end with it."""
    with place() as data_dir:
        child = await start_holder(data_dir)
        serving = Home(data_dir)
        starting = asyncio.create_task(serving.start())

        async def has_looked() -> bool:
            return (data_dir / "tallystick.lock").read_text().split() == [str(serving.pid)]

        await until(has_looked)
        assert child.stdin is not None
        child.stdin.close()
        await starting
        assert await asyncio.wait_for(child.wait(), CURL_SECONDS) == 0
        async with aiohttp.ClientSession() as session:
            client = Client(session, serving.url, serving.key)
            assert (await client.open("alice")).status == 201
        assert (await serving.stop()).code == 0


async def start_holder(data_dir: Path) -> asyncio.subprocess.Process:
    """Start servers as a command does, which keeps them until its standard input ends."""
    program = "import pathlib, sys; from server.process.embedded.servers import EmbeddedServers\n"
    program += "with EmbeddedServers.open(pathlib.Path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(data_dir), stdin=pipe, stdout=pipe)
    assert child.stdout is not None
    assert await asyncio.wait_for(child.stdout.readline(), CURL_SECONDS) == b"open\n"
    return child


async def test_commands_start_servers_for_themselves() -> None:
    """Where none runs, a command starts what it needs, and leaves nothing running."""
    with place() as data_dir:
        arguments = ["--data-dir", str(data_dir)]
        assert commanded(await run("migrate", *arguments))[0].startswith("applied migration 0001_")
        assert len(commanded(await run("keys", "create", "--ledger", "books", "--role", "admin", *arguments))) == 1
        assert {line[:5] for line in commanded(await run("doctor", *arguments))} == {"ok   "}
        assert not (data_dir / "postgres" / "postmaster.pid").exists()


WITHOUT_LEDGER = [
    pytest.param(("audit",), id="audit"),
    pytest.param(("audit", "--json"), id="audit for programs"),
    pytest.param(("export", "--ledger", "books", "--format", "csv"), id="export"),
    pytest.param(("import", "FILE", "--ledger", "books"), id="import"),
    pytest.param(("keys", "create", "--ledger", "books", "--role", "read"), id="keys create"),
    pytest.param(("keys", "limit", "--ledger", "books", "0" * 16, "--rate", "5/s"), id="keys limit"),
    pytest.param(("keys", "list"), id="keys list"),
    pytest.param(("keys", "rotate", "--ledger", "books", "0" * 16), id="keys rotate"),
    pytest.param(("keys", "revoke", "--ledger", "books", "0" * 16), id="keys revoke"),
    pytest.param(
        ("sinks", "create", "kafka", "--name", "new", "--bootstrap", "a:1", "--topic", "t"), id="sinks create"
    ),
    pytest.param(("sinks", "list"), id="sinks list"),
    pytest.param(("sinks", "status"), id="sinks status"),
    pytest.param(("sinks", "pause", "new"), id="sinks pause"),
    pytest.param(("sinks", "resume", "new"), id="sinks resume"),
    pytest.param(("sinks", "delete", "new"), id="sinks delete"),
]


@pytest.mark.parametrize("command", WITHOUT_LEDGER)
@pytest.mark.parametrize("is_named", [True, False], ids=["a named folder", "the folder by default"])
async def test_no_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], is_named: bool
) -> None:
    """A command that works on a ledger makes none: it says where there is none, and makes nothing there."""
    file = tmp_path / "book.jsonl"
    file.write_text(BOOK)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    words = [str(file) if word == "FILE" else word for word in command]
    end = await call(*words, *(("--data-dir", str(tmp_path / "nope")) if is_named else ()))
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith(f"tallystick: There is no ledger in {tmp_path / 'nope' if is_named else work / 'data'}: ")
    assert sorted(os.listdir(tmp_path)) == ["book.jsonl", "work"]
    assert os.listdir(work) == []


async def test_doctor_without_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor looks at the rest, says that there is no ledger, and makes nothing."""
    monkeypatch.chdir(tmp_path)
    end = await call("doctor")
    assert end.code == 1
    assert "ok    machine\n" in end.out
    assert f"FAULT Postgres\n      - There is no ledger in {tmp_path / 'data'}: " in end.out
    assert os.listdir(tmp_path) == []


async def test_a_folder_without_a_ledger() -> None:
    """An empty folder, and one that only ever had a cache, hold no ledger either; `migrate` makes one there."""
    with place() as data_dir:
        data_dir.mkdir()
        check_no_ledger(await call("audit", "--data-dir", str(data_dir)), data_dir)
        assert os.listdir(data_dir) == []
        EmbeddedServers.open(data_dir, postgres=False).close()
        check_no_ledger(await call("audit", "--data-dir", str(data_dir)), data_dir)
        assert commanded(await run("migrate", "--data-dir", str(data_dir)))[0].startswith("applied migration 0001_")
        assert commanded(await run("audit", "--data-dir", str(data_dir)))[-1].endswith(": clean")


def check_no_ledger(end: Ended, data_dir: Path) -> None:
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith(f"tallystick: There is no ledger in {data_dir}: ")


async def test_data_of_an_unreleased_version() -> None:
    """Data whose migrations had another text are refused by every command, which says what to do with them."""
    with place() as data_dir:
        arguments = ["--data-dir", str(data_dir)]
        with EmbeddedServers.open(data_dir, redis=False) as servers:
            assert servers.database_url is not None
            await migrate(servers.database_url)
            await administer(servers.database_url, "UPDATE tallystick.schema_migrations SET checksum = 'old'")
            for command in (["migrate"], ["keys", "list"], ["audit"]):
                check_refused(await call(*command, *arguments), data_dir)
        check_refused(await run("serve", "--port", "0", *arguments), data_dir)


def check_refused(end: Ended, data_dir: Path) -> None:
    assert (end.code, end.out) == (2, "")
    assert f"{data_dir} holds data of an unreleased version" in end.err
    assert "Name another directory with --data-dir, or remove this one" in end.err
    assert "Traceback" not in end.err


async def test_bad_data_directories(tmp_path: Path) -> None:
    """A file, and a folder with something else in it, are refused by every command that would use them."""
    file = tmp_path / "file"
    file.write_text("mine")
    with place() as foreign:
        foreign.mkdir()
        (foreign / "mine.txt").write_text("mine")
        for path, text in ((file, "is a file where a directory is needed"), (foreign, "holds files that are not")):
            for command, arguments in ((run, ["serve", "--port", "0"]), (call, ["migrate"]), (call, ["audit"])):
                end = await command(*arguments, "--data-dir", str(path))
                assert (end.code, end.out) == (2, "")
                assert text in end.err
                assert "Traceback" not in end.err
        assert [entry.name for entry in foreign.iterdir()] == ["mine.txt"]


async def test_ctrl_c_while_starting() -> None:
    """Ctrl-C before the server serves ends it too, with its children."""
    with place() as data_dir:
        child = await start("serve", "--port", "0", "--data-dir", str(data_dir))
        while not (data_dir / "logs").exists():
            await asyncio.sleep(0)
            assert child.returncode is None
        child.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(child.communicate(), CURL_SECONDS)
        assert child.returncode in (0, 130), (out, err)
        assert b"Traceback" not in err
        assert not (data_dir / "postgres" / "postmaster.pid").exists()
