"""The benchmark: the document that it writes, the parts that do not count, and the counts of its generator."""

import asyncio
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtests.bench import __main__ as program
from loadtests.bench.fill import fill, new_keys
from loadtests.bench.parts import PARTS, Case, in_turns
from loadtests.bench.record import Part, read
from loadtests.bench.report import TEMPLATE, render
from loadtests.bench.work import QUICK, Work
from loadtests.openloop.driver import Task
from loadtests.openloop.generator import prepare, run_apart
from loadtests.screen import Screen
from tests.support.books import check_books
from tests.support.postgres import administer
from tests.support.service import in_process, make_key

ROOT = Path(__file__).resolve().parents[2]
FIGURES = Path(__file__).with_name("figures")


def stored() -> list[Part]:
    """All parts of a short run that is stored here."""
    parts = [read(FIGURES, name) for name in PARTS]
    found = [part for part in parts if part is not None]
    assert len(found) == len(parts)
    return found


def written(parts: list[Part], plots: Path = Path("none")) -> str:
    """Return the document for these parts."""
    return render(parts, TEMPLATE.read_text(encoding="utf-8"), ROOT / "benchmarks.md", plots)


def test_the_document_says_how_it_was_measured() -> None:
    """The document has command, commit and machine of every part, and no placeholder of the template is left."""
    parts = stored()
    text = written(parts)
    for part in parts:
        assert f"| {part.name} | {part.command} | {part.commit} | {part.began} |" in text
        assert f"- {part.name}: {part.audit}" in text
    for name, fact in parts[0].machine.items():
        assert f"| {name} | {fact} |" in text
    assert "{{" not in text
    assert "Not measured" not in text


def test_the_document_has_the_figures() -> None:
    """Every measured rate is in a table."""
    for part in stored():
        if part.name in ("api", "sides", "overload"):
            text = written([part])
            assert [run for run in part.runs if f" {run['per_second']:,.0f} " not in text] == []


def test_words_hold_no_figures() -> None:
    """The template has no digit that could be taken for a measurement."""
    assert re.search(r"\d", TEMPLATE.read_text(encoding="utf-8")) is None


def test_wrong_books_do_not_count() -> None:
    """A part with wrong books is shown without figures, and with what the audit said."""
    [part] = [part for part in stored() if part.name == "api"]
    text = written([replace(part, clean=False, audit="one account differs")])
    assert "does not count: one account differs" in text
    assert [run for run in part.runs if f" {run['per_second']:,.0f} " in text] == []


class Bench(NamedTuple):
    """The program with one stub part, and the folder for its figures."""

    reports: Path
    calls: list[int]

    def __call__(self, *words: str) -> int:
        places = (
            "--reports",
            str(self.reports),
            "--document",
            str(self.reports / "b.md"),
            "--plots",
            str(self.reports),
        )
        return run_program([*words, "--quick", "--part", "stub", *places])


def run_program(words: list[str]) -> int:
    """Run the program in this process."""
    sys.argv = ["bench", *words]
    return program.main()


async def written_nowhere(*_: object) -> None:
    """Draw and write nothing."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A part whose books are right unless its folder has a file `wrong`; no document is written."""
    calls: list[int] = []

    async def part(work: Work) -> None:
        calls.append(1)
        work.keep(side="tallystick", workload="read", per_second=4321.0, seconds=1.0)
        work.part.audited("stub", not (tmp_path / "wrong").exists(), "said the auditor")
        if (tmp_path / "interrupt").exists():
            raise asyncio.CancelledError

    monkeypatch.setattr(program, "PARTS", {"stub": part})
    monkeypatch.setattr(program, "PEER_PYTHON", Path(sys.executable))
    monkeypatch.setattr(program, "_write", written_nowhere)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return Bench(tmp_path, calls)


def test_a_part_is_measured_once(bench: Bench) -> None:
    """A part that was measured at this commit and scale is kept, unless --again is given."""
    assert bench() == 0
    assert bench() == 0
    assert len(bench.calls) == 1
    assert bench("--again") == 0
    assert len(bench.calls) == 2


def test_a_part_with_wrong_books_fails(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """For a part with wrong books, the program says so, ends with 1, and measures it again the next time."""
    (bench.reports / "wrong").touch()
    assert bench() == 1
    assert "DOES NOT COUNT" in capsys.readouterr().out
    part = read(bench.reports, "stub")
    assert part is not None
    assert not part.counts
    (bench.reports / "wrong").unlink()
    assert bench() == 0
    assert len(bench.calls) == 2


def test_an_interrupted_part_is_kept_and_measured_again(bench: Bench) -> None:
    """An interrupted part with right books is kept, marked as incomplete, and measured again the next time."""
    (bench.reports / "interrupt").touch()
    assert bench() == 1
    part = read(bench.reports, "stub")
    assert part is not None
    assert (part.counts, part.complete, len(part.runs)) == (True, False, 1)
    (bench.reports / "interrupt").unlink()
    assert bench() == 0
    assert len(bench.calls) == 2


async def test_the_generator_counts_what_happened(database_url: str, redis_url: str) -> None:
    """
    The generator's count equals the ledger's transfers; transfers filled in by SQL have right books, and posting goes
    on.
    """
    async with in_process(database_url, redis_url) as service:
        key = await make_key(database_url, "bench")
        target = (await prepare(service.url, [key]))._replace(roots=(os.getpid(),))
        run = await run_apart(Task(target, "post", 8, 0.5))
        [[count]] = await administer(database_url, "SELECT count(*) FROM tallystick.transfers")
        assert run["answered"] == count > 0
        assert run["other"] == {}
        assert 0 < run["p50"] <= run["p99"] <= run["p999"]
        assert sum(run["cpu"]["server"]) >= 0
        held = await fill(database_url, target.accounts, count + 2_000, float("inf"))
        assert held == count + 2_000
        more = await run_apart(Task(target, "hot", 8, 0.3))
        assert more["other"] == {}
        assert more["good"] > 0
    await check_books(database_url)


async def test_keys_that_sql_has_made_open_their_ledgers(database_url: str, redis_url: str) -> None:
    """Each key made by SQL works, and over the keys the connections reach all ledgers."""
    async with in_process(database_url, redis_url) as service:
        keys = await new_keys(database_url, 2, 5)
        target = (await prepare(service.url, keys[:2], 3))._replace(keys=keys, ledgers=2, roots=(os.getpid(),))
        run = await run_apart(Task(target, "post", 2, 0.3))
        assert run["other"] == {}
        counts = await administer(
            database_url, "SELECT count(*) FROM tallystick.transfers GROUP BY ledger_id ORDER BY ledger_id"
        )
        assert len(counts) == 2
        assert sum(row[0] for row in counts) == run["answered"] > 0
    await check_books(database_url)


async def test_growth_is_measured_beside_what_does_not_grow() -> None:
    """Each run comes right after a run of the base, and its ratio is that of these two."""
    order: list[str] = []

    def case(name: str, *rates: float) -> Case:
        left = iter(rates)

        async def measure() -> dict[str, float]:
            order.append(name)
            return {"per_second": next(left)}

        return Case({"keys": name}, measure)

    part = Part("keys", "quick", "make bench", "unknown", {})
    work = Work(part, QUICK._replace(rounds=2), Screen())
    await in_turns(work, [case("few", 90.0, 80.0), case("many", 25.0, 10.0)], case("one", 100.0, 50.0, 100.0, 50.0))
    assert order == ["one", "few", "one", "many"] * 2
    assert [(run["keys"], run["times"]) for run in part.runs] == [
        ("few", 0.9),
        ("many", 0.5),
        ("few", 0.8),
        ("many", 0.2),
    ]
