"""The command `tallystick`, run as a child process to its end."""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

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


async def start(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    """Start the command; *variables* are settings, by name, without the prefix."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server.cli",
        *arguments,
        env=environment({f"TALLYSTICK_{name.upper()}": value for name, value in variables.items()}),
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
