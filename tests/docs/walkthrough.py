"""Commands of a page, and what the page says they print."""

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

# Seconds that all commands of a page may take, on a machine busy with other tests too.
PAGE_SECONDS_MAX: Final = 90
COMMANDS: Final = "sh"
OUTPUTS: Final = ("json", "text")
# What a page leaves out of an output.
LEFT_OUT: Final = "…"
_FENCE: Final = re.compile(
    r'^ *```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^ *```$', re.MULTILINE | re.DOTALL
)
_MARK: Final = re.compile(r"^<<end of step (\d+): (\d+)>>\n", re.MULTILINE)


class Step(NamedTuple):
    """A block of commands, the terminal it is for, and what it prints where the page says so."""

    title: str | None
    commands: str
    output: str | None = None


class Done(NamedTuple):
    """What became of a step: the exit code of its last command, and all that it printed."""

    code: int
    output: str


def steps(page: Path) -> list[Step]:
    """Return the steps of a page."""
    found: list[Step] = []
    for fence in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if fence["language"] == COMMANDS:
            found.append(Step(fence["title"], fence["text"]))
        elif fence["language"] in OUTPUTS:
            assert found, f"an output before any command: {fence['text']}"
            assert found[-1].output is None, f"a second output of the same commands: {fence['text']}"
            found[-1] = found[-1]._replace(output=fence["text"])
    return found


def agrees(said: str, printed: str) -> bool:
    """Tell whether an output is as a page says, white space and what the page leaves out apart."""
    parts = ("".join(part.split()) for part in said.split(LEFT_OUT))
    return re.fullmatch(".*".join(map(re.escape, parts)), "".join(printed.split()), re.DOTALL) is not None


async def walk(taken: Sequence[Step], folder: Path, environment: Mapping[str, str]) -> list[Done]:
    """Run steps one after another in one shell, as somebody who pastes them does; fewer come back when it ended."""
    script = "".join(
        f"{step.commands}\nprintf '\\n<<end of step %s: %s>>\\n' {number} $?\n" for number, step in enumerate(taken)
    )
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(PAGE_SECONDS_MAX):
            printed, _ = await shell.communicate()
    finally:
        if shell.returncode is None:
            os.killpg(shell.pid, signal.SIGKILL)
            await shell.wait()
    # Text before a mark, the number of its step, its exit code, and so on.
    pieces = _MARK.split(printed.decode())
    return [Done(int(code), output) for output, code in zip(pieces[::3], pieces[2::3], strict=False)]
