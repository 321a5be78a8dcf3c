"""The load tests as a program in their own environment: correct servers pass; lies and missed bars are reported."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtests.kit.__main__ import main
from loadtests.kit.catalogue import FLOOD_LIMIT, SCENARIOS
from server.gate.key_store import KeyLimit
from tests.loadtests.stub import stub_server
from tests.support.books import check_books
from tests.support.service import ServerProcess, make_key

ROOT = Path(__file__).resolve().parents[2]
KEY_VARIABLE = "LEDGER_LOAD_KEY"
# The first run downloads its packages.
SETUP_SECONDS_MAX = 600
SECONDS_MAX = 200

pytestmark = pytest.mark.timeout(SETUP_SECONDS_MAX + SECONDS_MAX)
# With the default users, this is long enough for every check to have something to judge.
SHORT = ("--seconds", "2")


class Done(NamedTuple):
    """The result of a program that has ended."""

    code: int
    output: str


async def run(*words: str, key: str | None = None, seconds_max: float = SECONDS_MAX) -> Done:
    """Run a program until it ends."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}
    if key is not None:
        environment[KEY_VARIABLE] = key
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds_max):
            output, _ = await process.communicate()
    except (TimeoutError, asyncio.CancelledError):
        # The program ends its own children.
        process.terminate()
        await process.wait()
        raise
    assert process.returncode is not None
    return Done(process.returncode, output.decode())


@pytest.fixture(scope="module", autouse=True)
async def installed() -> None:
    """The environment of the load tests, which is created if it is missing, so that no test is skipped."""
    done = await run(sys.executable, "scripts/bootstrap.py", "locust", seconds_max=SETUP_SECONDS_MAX)
    assert done.code == 0, done.output


async def load(reports: Path, *words: str, key: str | None = "any") -> Done:
    """Run load tests."""
    return await run(sys.executable, "-m", "loadtests.kit", "--reports", str(reports), *words, key=key)


@pytest.fixture(scope="module")
async def own(
    installed: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Path, asyncio.Task[Done]]]:
    """A run with two processes of users on its own server, which goes on while other tests run; and its reports."""
    folder = tmp_path_factory.mktemp("own")
    words = ("--scenario", "payments", "--processes", "2", "--warm-up", "0", *SHORT)
    running = asyncio.create_task(load(folder, *words, key=None))
    yield folder, running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_every_scenario_against_a_server(own: object, server_process: ServerProcess, tmp_path: Path) -> None:
    """
    In every scenario all promises are kept and all objectives met, every run leaves its report, and the books are
    right.
    """
    await server_process.start()
    database = server_process.database_url
    keys = {
        "flood": await make_key(database, "flood", "write", KeyLimit(*FLOOD_LIMIT, 100_000)),
        "others": await make_key(database, "others", "write"),
    }
    # Payments are tested on the run's own server.
    others = [name for name in SCENARIOS if name not in ("flood", "payments")]
    # They run at once: each has its own accounts, and they mostly wait.
    plan = [(",".join(others[::2]), keys["others"]), (",".join(others[1::2]), keys["others"]), ("flood", keys["flood"])]
    words = ("--host", server_process.url, *SHORT)
    for done in await asyncio.gather(*(load(tmp_path, "--scenario", names, *words, key=key) for names, key in plan)):
        assert done.code == 0, done.output
    for name in ("flood", *others):
        verdict = json.loads((tmp_path / name / "verdict.json").read_text(encoding="utf-8"))
        assert verdict["good"], name
        assert verdict["figures"]["lies"] == 0, name
        assert {"report.html", "stats_stats.csv", "console.log"} <= {path.name for path in (tmp_path / name).iterdir()}
        texts = [path.read_text(encoding="utf-8") for path in (tmp_path / name).iterdir()]
        assert not any(key in text for key in keys.values() for text in texts)
    await check_books(database)


async def test_a_server_of_its_own(own: tuple[Path, asyncio.Task[Done]]) -> None:
    """A run with two processes of users on its own server passes, audit included."""
    folder, running = own
    done = await running
    assert done.code == 0, done.output
    assert "audit: all:" in done.output
    assert len(list((folder / "payments").glob("history-[0-9]*.jsonl"))) == 2


async def test_a_lying_server_fails(installed: None, tmp_path: Path) -> None:
    """A run against a server that lies fails, and names the broken promises and the missed objective."""
    async with stub_server() as url:
        done = await load(tmp_path, "--host", url, "--scenario", "mixed", *SHORT, "--bar", "p50_ms=0.001")
    assert done.code == 1, done.output
    assert "  missed: lies is" in done.output
    assert re.search(r"^  missed: p50_ms is .*, bar <= 0.001: ", done.output, re.MULTILINE), done.output
    verdict = json.loads((tmp_path / "mixed" / "verdict.json").read_text(encoding="utf-8"))
    found = "\n".join(lie["what"] for lie in verdict["lies"])
    for lie in ("which is not in the books", "was executed 2 times", "was told", "was answered in 2 ways"):
        assert lie in found


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        (("--scenario", "sprint"), "any", "no scenario is called sprint; there are reads, payments,"),
        (("--host", "http://127.0.0.1:1"), None, "needs an API key of the role write in the environment"),
        (("--host", "http://127.0.0.1:1"), "any", "ConnectionRefusedError"),
        (("--host", "nowhere"), "any", "not an address of the form http://HOST:PORT: nowhere"),
        (("--bar", "p50=1"), "any", "no objective is called p50; there are"),
        (("--bar", "p50_ms=low"), "any", "it is NAME=NUMBER, not p50_ms=low"),
        (("--ui",), "any", "--ui shows one scenario"),
    ],
)
def test_what_cannot_be_run_is_said(
    words: tuple[str, ...],
    key: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if key is None:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(KEY_VARIABLE, key)
    try:
        code = main(list(words))
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
