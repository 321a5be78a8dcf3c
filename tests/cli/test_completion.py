"""Shell completion, through the function that bash itself would call."""

import asyncio
import shlex
from pathlib import Path

import pytest

from tests.support.balancer import program
from tests.support.command import call, ended

COMPLETED = [
    pytest.param(("tallystick", "tran"), ["transfers"], id="a command"),
    pytest.param(("tallystick", "transfers", "re"), ["reverse"], id="a command of a group"),
    pytest.param(("tallystick", "pay", "--ref"), ["--reference"], id="an option"),
    pytest.param(("tallystick", "pay", "world", "alice", "--k"), ["--key"], id="an option behind words"),
    pytest.param(("tallystick", "transfers", "list", "--kind", "re"), ["reversal"], id="the value of an option"),
    pytest.param(("tallystick", "sinks", "create", ""), ["kafka", "rabbitmq"], id="what takes long to load"),
    pytest.param(("tallystick", "completion", ""), ["bash", "zsh", "fish"], id="a choice"),
    pytest.param(("tallystick", "nonsense", "--ref"), [], id="nothing of what is not there"),
]


@pytest.fixture(scope="module")
async def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that bash reads."""
    end = await call("completion", "bash")
    assert (end.code, end.err) == (0, "")
    file = tmp_path_factory.mktemp("completion") / "tallystick.bash"
    file.write_text(end.out)
    return file


# Asks bash for the command's function, and calls it as bash does.
ASK = """\
source {script}
COMP_WORDS=({words})
COMP_CWORD={last}
function=$(complete -p tallystick)
function=${{function##*-F }}
${{function%% *}}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(("words", "completed"), COMPLETED)
async def test_bash(script: Path, words: tuple[str, ...], completed: list[str]) -> None:
    """Commands, options and choices are completed in every position."""
    asked = ASK.format(script=shlex.quote(str(script)), words=shlex.join(words), last=len(words) - 1)
    child = await asyncio.create_subprocess_exec(
        *(program("bash"), "--norc", "-c", asked), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    end = await ended(child)
    assert (end.code, end.err) == (0, "")
    assert end.out.split() == completed


@pytest.mark.parametrize("name", ["zsh", "fish"])
async def test_other_shells(name: str) -> None:
    """Other shells get their own script."""
    end = await call("completion", name)
    assert (end.code, end.err) == (0, "")
    assert "idempotency-keys" in end.out


async def test_a_shell_there_is_not() -> None:
    """An unknown shell is refused."""
    end = await call("completion", "cmd")
    assert (end.code, end.out) == (2, "")
