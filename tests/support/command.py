"""Runs the command `tallystick` to its end, as a child process or in this one."""

import asyncio
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from unittest import mock

from server.cli import main

# No server listens there. With this address no embedded Redis is started.
NO_REDIS = "redis://127.0.0.1:1"
END_SECONDS = 60.0


class Ended(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """
    Return this process's environment with *variables* as the only settings of ours, and defaults for tests.

    By default a server has one worker, any free admin port, and no background process, which most tests do not need.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TALLYSTICK_")}
    shared = {"TALLYSTICK_ADMIN_PORT": "0", "TALLYSTICK_WORKERS": "1", "TALLYSTICK_BACKGROUND": "false"}
    return {**inherited, **shared, **variables}


async def start(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    """Start the command; *variables* are settings by name, without the prefix."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server.cli",
        *arguments,
        env=environment(_settings(variables)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments: str, **variables: str) -> Ended:
    """Run the command to its end."""
    child = await start(*arguments, **variables)
    return await ended(child)


async def call(*arguments: str, **variables: str) -> Ended:
    """Run the command on a thread of this process, which is faster than `run`; for tests of its work and output."""
    return await asyncio.to_thread(_call, arguments, _settings(variables))


def _call(arguments: tuple[str, ...], settings: Mapping[str, str]) -> Ended:
    # Use text over bytes, like the streams of a process: commands write to the buffer too.
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with (
        mock.patch.dict(os.environ, environment(settings), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _own_logs(),
    ):
        try:
            code = main(arguments)
        except SystemExit as end:
            # The parser of arguments exits by itself.
            code = int(end.code or 0)
    return Ended(code, _written(out), _written(err))


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@contextlib.contextmanager
def _own_logs() -> Iterator[None]:
    """Restore the root logger, which a command configures for its process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _settings(variables: Mapping[str, str]) -> dict[str, str]:
    return {f"TALLYSTICK_{name.upper()}": value for name, value in variables.items()}


async def ended(child: asyncio.subprocess.Process) -> Ended:
    """Wait until the child has ended, and return its exit code and the output not read before."""
    try:
        out, err = await asyncio.wait_for(child.communicate(), END_SECONDS)
    except BaseException:
        if child.returncode is None:
            child.kill()
            await child.wait()
        raise
    assert child.returncode is not None
    return Ended(child.returncode, out.decode(), err.decode())
