"""The client's README is short, and all of its code runs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

README = Path(__file__).resolve().parents[2] / "client" / "README.md"
LINES_MAX = 60


def run(blocks: list[str]) -> None:
    """Run blocks of code in order, as one program."""
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number}", "exec"), names)  # noqa: S102 -- our own README
    names["ledger"].close()


async def test_the_readme_runs(
    told: Service, ledger: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkout prints the final balance, and the events end with the refund."""
    text = README.read_text()
    assert len(text.splitlines()) <= LINES_MAX
    client = await told.client(ledger)
    monkeypatch.setenv("TALLYSTICK_URL", told.url)
    monkeypatch.setenv("TALLYSTICK_API_KEY", str(client.token))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    await asyncio.to_thread(run, blocks)
    printed = capsys.readouterr().out.splitlines()
    # 100.00 minus 30.00, plus 5.00.
    assert printed[0] == "7500"
    assert [line.split()[-2:] for line in printed[1:4]] == [["500", "7500"], ["-3000", "7000"], ["10000", "10000"]]
    assert printed[-1].endswith(" 500")
    # A second run pays nothing again.
    await asyncio.to_thread(run, blocks)
    assert capsys.readouterr().out.splitlines() == printed
