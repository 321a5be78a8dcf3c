"""The command `tallystick`, run to its end: as a child process, or quicker in this one."""

import asyncio
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from unittest.mock import patch

from server.cli import main

# Nothing listens there: it keeps an embedded Redis from being started where none is needed.
NO_REDIS = "redis://127.0.0.1:1"
END_SECONDS = 60.0


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with no settings of ours but *variables*, and servers that share a machine."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TALLYSTICK_")}
    return {**inherited, "TALLYSTICK_ADMIN_PORT": "0", "TALLYSTICK_WORKERS": "1", **variables}


def named(variables: Mapping[str, str]) -> dict[str, str]:
    """Return settings as variables of the environment."""
    return {f"TALLYSTICK_{name.upper()}": value for name, value in variables.items()}


async def start(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    """Start the command; *variables* are settings, by name, without the prefix."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server.cli",
        *arguments,
        env=environment(named(variables)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments: str, **variables: str) -> Ended:
    """Run the command to its end."""
    child = await start(*arguments, **variables)
    return await ended(child)


async def ended(child: asyncio.subprocess.Process) -> Ended:
    """Wait until the child has ended, and return what it said since it was last read."""
    try:
        out, err = await asyncio.wait_for(child.communicate(), END_SECONDS)
    except BaseException:
        if child.returncode is None:
            child.kill()
            await child.wait()
        raise
    assert child.returncode is not None
    return Ended(child.returncode, out.decode(), err.decode())


async def call(*arguments: str, **variables: str) -> Ended:
    """Run the command in a thread of this process; not one that starts servers, which only the main thread may."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, environment(named(variables)), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        logs_kept(),
    ):
        code = await asyncio.to_thread(_main, arguments)
    return Ended(code, out.getvalue(), err.getvalue())


def _main(arguments: tuple[str, ...]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))


@contextlib.contextmanager
def logs_kept() -> Iterator[None]:
    """Take back what a command changes of this process's logs."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    loggers = [root, *(logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger))]
    levels = [(logger, logger.level) for logger in loggers]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in levels:
            logger.setLevel(level)
