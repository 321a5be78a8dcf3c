"""The Lua scripts that Redis runs."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

from server.store.redis_link import Command


class Script(NamedTuple):
    """A Lua script: its text, and the SHA-1 by which EVALSHA calls it."""

    text: str
    sha: str

    def call(self, keys: Sequence[bytes], *arguments: bytes | str | int) -> Command:
        """Return the command that runs the script."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


@cache
def script(name: str) -> Script:
    """Return the script `lua/<name>.lua`."""
    text = (Path(__file__).parent / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, sha1(text.encode()).hexdigest())  # noqa: S324 -- its name in Redis, no secret


@cache
def _texts() -> dict[str, str]:
    return {found.sha: found.text for found in map(script, ("gate", "address", "invalidate", "fill"))}


def with_text(command: Command) -> Command:
    """Return EVAL with the script's text instead of EVALSHA; any other command unchanged."""
    return ("EVAL", _texts()[str(command[1])], *command[2:]) if command[0] == "EVALSHA" else command
