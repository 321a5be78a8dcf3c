"""
Style that can be measured, as tests: it cannot wear off without somebody noticing.

Only files that git tracks count. An exemption is named here, with its reason, or it does not exist.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FUNCTION_LINES_MAX = 70  # what is seen at once

# path::function -> why it may be longer.
EXEMPT: dict[str, str] = {}

# Taken over from elsewhere as they are; not ours to tidy.
VENDORED = "vendor"
BINARY_SUFFIXES = {".gz", ".ico", ".png", ".svg", ".whl", ".woff2"}

# Written in two parts so that this file passes its own check.
LEFT_OVERS = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:work|root|home|Users|farm)/\w")
RELATIVE_SHARE = re.compile(r"\bbash" + "_jobs|[.]lib" + "rary/")

TEMPLATE = "0000-template.md"


def tracked(*patterns: str) -> list[Path]:
    """
    The files git tracks that are still there, by pathspec.
    """
    command = ("git", "ls-files", "-z", "--", *patterns)
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def ours() -> list[Path]:
    """
    Every tracked text file that was written for this project.
    """
    found = [
        path
        for path in tracked()
        if VENDORED not in path.relative_to(ROOT).parts and path.suffix not in BINARY_SUFFIXES
    ]
    assert found
    return found


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """
    Each function of a file with its number of lines, its signature and docstring included.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{shown(path)}::{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_functions_are_short() -> None:
    """
    No function is longer than 70 lines but those that are exempt, each of which is there and still longer.
    """
    pairs = (pair for path in tracked("*.py") for pair in functions(path))
    assert {name for name, count in pairs if count > FUNCTION_LINES_MAX} == set(EXEMPT)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(LEFT_OVERS, id="nothing is left for later"),
        pytest.param(MACHINE_PATH, id="no path of one machine"),
        pytest.param(RELATIVE_SHARE, id="no place outside the repository"),
    ],
)
def test_no_line_says(pattern: re.Pattern[str]) -> None:
    """
    No tracked file of ours has a line that matches.
    """
    found = [
        f"{shown(path)}:{number}: {line.strip()}"
        for path in ours()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


def test_modules_say_what_they_are() -> None:
    """
    Every module of the service and of the client begins with a docstring.
    """
    modules = tracked("server/*.py", "client/*.py")
    silent = [shown(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_make_targets_have_help() -> None:
    """
    Every target of the Makefile is listed by `make help` and declared phony.
    """
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", text, re.MULTILINE))
    helped = set(re.findall(r"^([a-z][\w-]*):[^\n]*## \S", text, re.MULTILINE))
    phony = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert targets
    assert targets == helped == set(" ".join(phony).split())


def test_the_map_shows_what_is_there() -> None:
    """
    Every folder that CONTRIBUTING.md names holds files, and every part of the service is named.
    """
    named = set(re.findall(r"^\| `([a-z/]+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    folders = {path.relative_to(ROOT).parents[-3].as_posix() for path in tracked("server/*/*")}
    assert {name for name in named if name.startswith("server/")} == folders
    assert [name for name in named if not tracked(f"{name}/*")] == []


def test_decisions_follow_the_template() -> None:
    """
    Decision records are numbered without gaps and have the template's headings, in its order.
    """
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:5] for path in records] == [f"{n:04}-" for n in range(len(records))]

    def headings(path: Path) -> list[str]:
        return re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)

    expected = headings(ROOT / "docs" / "decisions" / TEMPLATE)
    assert {path.name for path in records if headings(path) != expected} == set()
    titles = {path.name: path.read_text().splitlines()[0] for path in records}
    assert {n for n, title in titles.items() if not title.startswith(f"# {n[:4]}: ")} == set()


def test_locks_name_hashes_and_no_address() -> None:
    """
    Every locked package has a hash, and no lock says where to get it.
    """
    locks = tracked("requirements/*.txt")
    assert locks
    for path in locks:
        text = path.read_text()
        assert "://" not in text, shown(path)
        assert "--index-url" not in text, shown(path)
        entries = re.split(r"\n(?=\S)", text.strip())
        unhashed = [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]
        assert unhashed == [], shown(path)


def test_programs_can_be_started() -> None:
    """
    Files that begin with `#!` are executable.
    """
    programs = [path for path in ours() if path.read_bytes().startswith(b"#!")]
    assert {shown(path) for path in programs if not path.stat().st_mode & 0o100} == set()
