"""The load tests as a program, in their own virtual environment: honest servers pass, lies and missed bars are said."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtests.kit.catalogue import FLOOD_LIMIT, SCENARIOS
from server.gate.key_store import KeyLimit
from tests.loadtests.stub import stub_server
from tests.support.books import check_books
from tests.support.service import ServerProcess, make_key

ROOT = Path(__file__).resolve().parents[2]
KEY_VARIABLE = "LEDGER_LOAD_KEY"
# The first time, its packages are fetched.
SETUP_SECONDS_MAX = 600
SECONDS_MAX = 200

pytestmark = pytest.mark.timeout(SETUP_SECONDS_MAX + SECONDS_MAX)
# With the usual users, so long that every check has something to judge.
SHORT = ("--seconds", "2")


class Done(NamedTuple):
    """A program that has ended."""

    code: int
    output: str


async def run(*words: str, key: str | None = None, seconds_max: float = SECONDS_MAX) -> Done:
    """Run a program to its end."""
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
        # It ends what it has started.
        process.terminate()
        await process.wait()
        raise
    assert process.returncode is not None
    return Done(process.returncode, output.decode())


@pytest.fixture(scope="module", autouse=True)
async def installed() -> None:
    """The virtual environment of the load tests; made when it is not there, so that nothing is skipped."""
    done = await run(sys.executable, "scripts/bootstrap.py", "locust", seconds_max=SETUP_SECONDS_MAX)
    assert done.code == 0, done.output


async def load(reports: Path, *words: str, key: str | None = "any") -> Done:
    """Run load tests."""
    return await run(sys.executable, "-m", "loadtests.kit", "--reports", str(reports), *words, key=key)


@pytest.fixture(scope="module")
async def own(
    installed: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Path, asyncio.Task[Done]]]:
    """A run in two processes of users on a server of its own, which goes on while other tests run; and its reports."""
    folder = tmp_path_factory.mktemp("own")
    words = ("--scenario", "payments", "--processes", "2", "--warm-up", "0", *SHORT)
    running = asyncio.create_task(load(folder, *words, key=None))
    yield folder, running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_every_scenario_against_a_server(own: object, server_process: ServerProcess, tmp_path: Path) -> None:
    """All promises are kept and all objectives met; every run leaves its report; the books are right."""
    await server_process.start()
    database = server_process.database_url
    keys = {
        "flood": await make_key(database, "flood", "write", KeyLimit(*FLOOD_LIMIT, 100_000)),
        "others": await make_key(database, "others", "write"),
    }
    others = [name for name in SCENARIOS if name != "flood"]
    # At once: each has accounts of its own, and mostly waits.
    plan = [(",".join(others[::2]), keys["others"]), (",".join(others[1::2]), keys["others"]), ("flood", keys["flood"])]
    words = ("--host", server_process.url, *SHORT)
    for done in await asyncio.gather(*(load(tmp_path, "--scenario", names, *words, key=key) for names, key in plan)):
        assert done.code == 0, done.output
    for name in SCENARIOS:
        verdict = json.loads((tmp_path / name / "verdict.json").read_text(encoding="utf-8"))
        assert verdict["good"], name
        assert verdict["figures"]["lies"] == 0, name
        assert {"report.html", "stats_stats.csv", "console.log"} <= {path.name for path in (tmp_path / name).iterdir()}
        texts = [path.read_text(encoding="utf-8") for path in (tmp_path / name).iterdir()]
        assert not any(key in text for key in keys.values() for text in texts)
    await check_books(database)


async def test_a_server_of_its_own(own: tuple[Path, asyncio.Task[Done]]) -> None:
    """Users in two processes, a server that is started for them, and its audit."""
    folder, running = own
    done = await running
    assert done.code == 0, done.output
    assert "audit: all:" in done.output
    assert len(list((folder / "payments").glob("history-[0-9]*.jsonl"))) == 2


LIES = {
    "forgets": "which is not in the books",
    "duplicates": "was executed 2 times",
    "stale": "was told",
    "rewrites": "was answered in 2 ways",
}
HONEST = ""


@pytest.fixture(scope="module")
async def stubs(installed: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """What runs against lying servers and an honest one say, all at once, and the last one with a bar too high."""

    async def against(lie: str) -> Done:
        words = ("--scenario", "mixed", *SHORT, *(() if lie else ("--bar", "p50_ms=0.001")))
        async with stub_server(lie) as url:
            return await load(tmp_path_factory.mktemp(lie or "honest"), "--host", url, *words)

    names = (*LIES, HONEST)
    return dict(zip(names, await asyncio.gather(*map(against, names)), strict=True))


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_server_fails(stubs: dict[str, Done], lie: str) -> None:
    """What users were promised and did not get is named, and the run fails."""
    done = stubs[lie]
    assert done.code == 1, done.output
    assert LIES[lie] in done.output
    assert "missed: lies is" in done.output


def test_an_honest_server_misses_only_the_bar_that_is_too_high(stubs: dict[str, Done]) -> None:
    """The objective is named with its figure and its bar; nothing else is said to be missed."""
    done = stubs[HONEST]
    assert done.code == 1, done.output
    missed = [line for line in done.output.splitlines() if line.startswith("  missed:")]
    assert len(missed) == 1, done.output
    assert missed[0].startswith("  missed: p50_ms is ")
    assert "bar <= 0.001" in missed[0]


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
async def test_what_cannot_be_run_is_said(tmp_path: Path, words: tuple[str, ...], key: str | None, said: str) -> None:
    done = await load(tmp_path, *words, key=key)
    assert done.code == 2
    assert said in done.output
