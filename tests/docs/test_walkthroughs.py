"""
Every command of the tutorial, of the how-tos and of the README, run in a fresh clone as a new user would.

The clone is lent the packages of this checkout's `.venv`, since fetching them takes a minute: its own `.venv` has a
Python and a `tallystick`, and finds the packages where they are. Ports are free ones instead of 8080 and 8081, and
nothing is typed before the background process leads. Everything else is as the pages have it, `make run` too.
"""

import asyncio
import os
import re
import signal
import subprocess
import sysconfig
import venv
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest

from loadtests.processes import free_port
from tests.docs.walkthrough import COMMANDS, Step, agrees, steps, walk
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 20.0
# The titles of the blocks that start the server, and that set up a terminal to call it.
SERVER = "Terminal 1"
SET_UP = "Terminal 2"
TUTORIAL = Path("docs/tutorial.md")
# What the second terminal of the tutorial defines.
HELPER = re.compile(r"\bapi [\"'/]")
PAGES = [
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path != ROOT / TUTORIAL and f"```{COMMANDS}\n" in path.read_text(encoding="utf-8")
]
STAMP = """
from scripts.make_venv import ROOT, stamp_of, venv_of
state = venv_of("run").state
state.mkdir()
(state / "made_in").write_text(str(ROOT))
(state / "run.sha256").write_text(stamp_of("run"))
"""
PROGRAM = """#!{python}
import sys
from server.cli import main
sys.exit(main())
"""

pytestmark = pytest.mark.timeout(240)


class Checkout(NamedTuple):
    """A clone with a server that runs, and what its commands are run with."""

    folder: Path
    ports: dict[str, int]
    environment: dict[str, str]

    def own(self, step: Step) -> Step:
        """Return a step with the ports of this server."""
        output = step.output and self._own_ports(step.output)
        return Step(step.title, self._own_ports(step.commands), output)

    def leads(self) -> bool:
        """Tell whether its background process leads: a reader who types is slower than that."""
        with urlopen(f"http://127.0.0.1:{self.ports['8081']}/metrics", timeout=START_SECONDS) as answer:
            return b"\ntallystick_background_leads 1" in answer.read()

    def _own_ports(self, text: str) -> str:
        return re.sub(r"\b(8080|8081)\b", lambda match: str(self.ports[match[0]]), text)


def clone(folder: Path) -> None:
    """Clone HEAD, and make its `.venv` as `make setup` would, but for where the packages are."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    made = folder / ".venv"
    venv.create(made, symlinks=True)
    python = made / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(made)})
    lent = (folder, folder / "client", sysconfig.get_path("purelib"))
    (Path(packages) / "lent.pth").write_text("".join(f"{path}\n" for path in lent))
    program = made / "bin" / "tallystick"
    program.write_text(PROGRAM.format(python=python))
    program.chmod(0o755)
    subprocess.run([python, "-c", STAMP], cwd=folder, check=True)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Checkout]:
    """A clone of HEAD in which the tutorial's first terminal runs."""
    await asyncio.to_thread(clone, folder)
    # Nor what `make test` was called with, which it hands on.
    names = ("TALLYSTICK_", "PYTHON", "MAKE", "MFLAGS", "ARGS")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(names)}
    ports = {"8080": free_port(), "8081": free_port()}
    own = Checkout(folder, ports, {**kept, "TALLYSTICK_URL": f"http://127.0.0.1:{ports['8080']}"})
    start = own.own(next(step for step in steps(ROOT / TUTORIAL) if step.title == SERVER))
    log = folder.with_name("log")
    listen = {"TALLYSTICK_PORT": str(ports["8080"]), "TALLYSTICK_ADMIN_PORT": str(ports["8081"])}
    with log.open("wb") as output:
        server = await asyncio.create_subprocess_exec(
            *("bash", "-c", start.commands),
            cwd=folder,
            env={**kept, **listen},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await until(lambda: server.returncode is not None or agrees(start.output or "", log.read_text()), START_SECONDS)
        assert server.returncode is None, log.read_text()
        await until(own.leads, START_SECONDS)
        yield own
    finally:
        if server.returncode is None:
            # Ctrl-C.
            os.killpg(server.pid, signal.SIGINT)
        async with asyncio.timeout(STOP_SECONDS):
            await server.wait()


@pytest.fixture(scope="module")
async def checkout(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Checkout]:
    """A clone with a server on a new ledger, for all pages."""
    async with running(tmp_path_factory.mktemp("walk") / "tallystick") as own:
        yield own


async def follow(checkout: Checkout, found: Sequence[Step]) -> None:
    """Run steps in one shell; each succeeds, and prints what its page says."""
    taken = [checkout.own(step) for step in found if step.title != SERVER]
    done = await walk(taken, checkout.folder, checkout.environment)
    for step, result in zip(taken, done, strict=False):
        # For whoever writes the page: `pytest -rP` shows it.
        print(step.commands, result.output, sep="\n")
        assert result.code == 0
        assert step.output is None or agrees(step.output, result.output), step.output
    assert len(done) == len(taken), "the shell ended early"


async def test_tutorial(checkout: Checkout) -> None:
    """The tutorial's commands do what it says. It comes first: nothing is in the ledger yet."""
    await follow(checkout, steps(ROOT / TUTORIAL))


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_pages(checkout: Checkout, page: Path) -> None:
    """The commands of a page do what it says; before them come the tutorial's own if they use its `api`."""
    own = steps(ROOT / page)
    set_up = [step for step in steps(ROOT / TUTORIAL) if step.title == SET_UP]
    await follow(checkout, [*set_up, *own] if any(HELPER.search(step.commands) for step in own) else own)


@pytest.mark.parametrize(
    ("said", "printed", "same"),
    [
        pytest.param('{"a": 1}', '{"a":1}\n', True, id="white space does not count"),
        pytest.param('{"id": "…", "b": 2}', '{"id":"x","b":2}', True, id="what is left out may be anything"),
        pytest.param('{"a": 1}', '{"a":12}', False, id="another value"),
        pytest.param('{"a": 1}', '{"a":1}{"b":2}', False, id="more than the page says"),
    ],
)
def test_what_agrees(said: str, printed: str, same: bool) -> None:
    """An output agrees with a page when all of it is what the page says."""
    assert agrees(said, printed) is same
