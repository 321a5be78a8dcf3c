"""Secrets that are shown only once are not lost when they cannot be shown."""

import asyncio
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.support.command import Ended, ended, environment
from tests.support.postgres import administer
from tests.support.service import make_key

HOOK = ("webhook-endpoints", "create", "http://127.0.0.1:9/hook")
NO_SPACE = "tallystick: standard output cannot be written: No space left on device\n"
TOO_LARGE = "tallystick: standard output cannot be written: File too large; "


async def redirected(line: str, words: tuple[str, ...], **variables: str) -> Ended:
    """Run a command as a line of a shell says, in which $1 is a file."""
    command = shlex.join((sys.executable, "-m", "server.cli", *words))
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", line.replace("COMMAND", command)),
        env=environment({f"TALLYSTICK_{name.upper()}": value for name, value in variables.items()}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await ended(child)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
async def test_an_output_that_is_full(shell: Shell) -> None:
    """It is noticed before anything is made or replaced."""
    server = {"url": shell.url, "api_key": shell.token}
    made = await shell.json(*HOOK)
    rotate = ("keys", "rotate", shell.token, "--overlap", "0")
    for words in (rotate, HOOK, ("webhook-endpoints", "rotate-secret", made["id"])):
        assert await redirected("COMMAND >/dev/full", words, **server) == (2, "", NO_SPACE), words
    # The token still works, and there is no other endpoint.
    assert [row["id"] for row in await shell.json("webhook-endpoints", "list")] == [made["id"]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
async def test_a_key_of_the_database(database_url: str) -> None:
    """Rotating a key in the database replaces nothing either."""
    rotate = ("keys", "rotate", await make_key(database_url, "books"), "--overlap", "0")
    before = await administer(database_url, "SELECT * FROM tallystick.api_keys")
    assert await redirected("COMMAND >/dev/full", rotate, database_url=database_url) == (2, "", NO_SPACE)
    assert await administer(database_url, "SELECT * FROM tallystick.api_keys") == before


async def test_a_disk_that_turns_out_to_be_full(shell: Shell, tmp_path: Path) -> None:
    """What was made is taken back, or the message says what to do."""
    server = {"url": shell.url, "api_key": shell.token}
    made = await shell.json(*HOOK)
    line = f"ulimit -f 0; COMMAND >{shlex.quote(str(tmp_path / 'out'))}"
    other = (await shell.done("keys", "create", "--role", "read")).strip()
    for words, advice in (
        (("keys", "rotate", other), "nobody has seen the new token: rotate the key again"),
        (HOOK, "the new endpoint has been deleted"),
        (("webhook-endpoints", "rotate-secret", made["id"]), "nobody has seen the new secret; the old one also signs"),
    ):
        end = await redirected(line, words, **server)
        assert (end.code, end.err.startswith(TOO_LARGE + advice)) == (2, True), end
    assert [row["id"] for row in await shell.json("webhook-endpoints", "list")] == [made["id"]]
