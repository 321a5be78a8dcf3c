"""
Writes benchmarks.md: the words of template.md, which hold no figures, and tables of the measured runs between them.
"""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.bench.record import Part
from loadtests.figures import RATE, Column, Run, group, percent, runs_table, table
from loadtests.openloop.results import CURVE

TEMPLATE = Path(__file__).with_name("template.md")
# The fields that identify runs of one kind: those of a comparison, and those of all parts.
SIDES = ("side", "workload", "connections")
KIND = (*SIDES, "share", "step", "transfers", "ledgers", "keys", "workers")
_PLACE = re.compile(r"^\{\{(\w+)\}\}$", re.MULTILINE)
# Names in the figures, and the words for readers.
NAMES = {
    "read": "cached read",
    "replay": "replay",
    "post": "first post",
    "hot": "first post, one hot account",
    "bulk": "bulk, transfers",
    "statement": "statement, newest 20",
    "spread": "TPC-B, scale 20",
    "one row": "TPC-B, scale 1",
    "rows": "a row",
}
KINDS = {"server": "server", "postgres": "PostgreSQL", "redis": "Valkey", "generator": "generator"}


def name_of(workload: str) -> str:
    return NAMES.get(workload, workload)


def _microseconds(run: Run, *, kind: str, mode: int) -> float | None:
    """
    Return the user (0) or system (1) time that a request took in one kind of process; None if that kind took no part.
    """
    if kind not in run["cpu"]:
        return None
    answered = run.get("answered") or run["per_second"] * run["seconds"]
    return float(1e6 * run["cpu"][kind][mode] / max(answered, 1))


def _without_generator(run: Run) -> float:
    kinds = (kind for kind in KINDS if kind != "generator")
    return sum(_microseconds(run, kind=kind, mode=mode) or 0.0 for kind in kinds for mode in (0, 1))


NOT_ANSWERED = Column("not answered 2xx", lambda run: sum(run["other"].values()))
P50, P99, P999 = Column("p50 ms", "p50"), Column("p99 ms", "p99"), Column("p99.9 ms", "p999")
TIMES = Column("times that beside it", "times", spreads=True)


class Table(NamedTuple):
    part: str
    by: tuple[str, ...]
    columns: tuple[Column, ...]
    head: str = "what"


def _label(name: str, value: Any) -> str:
    """Return the words for readers for a value of the field."""
    if isinstance(value, str):
        return name_of(value)
    return f"{value:.0%} of the peak" if name == "share" else f"{value:,} {name.removesuffix('s' * (value == 1))}"


# By the name that the template uses.
TABLES = {
    "api": Table("api", ("workload", "connections"), (RATE, P50, P99, P999, NOT_ANSWERED)),
    "sides": Table("sides", SIDES, (RATE, P50, P99, Column("times the peer", "times", spreads=True))),
    "cpu": Table(
        "sides",
        SIDES,
        (
            *(
                Column(f"{name}, {word}", partial(_microseconds, kind=kind, mode=mode))
                for kind, name in KINDS.items()
                for mode, word in enumerate(("user", "system"))
            ),
            Column("without the generator", _without_generator),
        ),
        "µs of CPU",
    ),
    "open": Table(
        "open",
        ("workload", "share"),
        (
            Column("due a second", "offered"),
            Column("good a second", "per_second"),
            *(P50, P99, P999),
            Column("never sent", "gave_up"),
            Column("generator's lag, p99 ms", "lag_p99"),
        ),
    ),
    "overload": Table("overload", ("step",), CURVE),
    "transfers": Table("transfers", ("transfers", "workload"), (RATE, P99)),
    "connections": Table(
        "connections",
        ("connections",),
        (RATE, P50, P99, P999, Column("broken", "broken"), Column("more memory, MiB", "memory_mib")),
    ),
    "ledgers": Table("ledgers", ("workload", "ledgers"), (RATE, P99, TIMES), "256 connections"),
    "keys": Table("keys", ("workload", "keys"), (RATE, P99, TIMES), "256 connections"),
    "bulk": Table("bulk", ("connections",), (RATE, P50, P99, Column("bulks refused", "refused"), TIMES), "callers"),
    "one": Table("one", ("workload",), (P50, P99, Column("`pgbench -c 1`, p50 ms", "base"), TIMES), "one caller"),
    "workers": Table(
        "workers",
        ("workload", "workers"),
        (RATE, P99, Column("µs of CPU without the generator", _without_generator), TIMES),
        "256 connections",
    ),
    "generator": Table(
        "generator",
        ("side", "connections"),
        (RATE, Column("CPU of the generator, of one core", "generator_share", percent)),
        "a bare handler asked by",
    ),
}


def render(parts: Sequence[Part], template: str, document: Path, plots: Path) -> str:
    found = {part.name: part for part in parts}
    figures = {
        name: _figures(table, found.get(table.part), document, plots / f"{name}.svg") for name, table in TABLES.items()
    }
    return _PLACE.sub(lambda match: {"how": _how(parts), **figures}[match[1]], template)


def _figures(table: Table, part: Part | None, document: Path, plot: Path) -> str:
    if part is None:
        return "Not measured."
    if not part.counts:
        return f"Measured, but it does not count: {part.audit}."
    rows = [(", ".join(map(_label, table.by, key)), runs) for key, runs in group(part.runs, *table.by).items()]
    pieces = [runs_table(table.head, rows, table.columns), *part.notes]
    if not part.complete:
        pieces.append("This part was interrupted; these are the runs that were made until then.")
    if plot.exists():
        pieces.insert(0, f"![{plot.stem}]({os.path.relpath(plot, document.parent)})")
    return "\n\n".join(pieces)


def _how(parts: Sequence[Part]) -> str:
    """Say how, where and when everything was measured."""
    facts = {name: text for part in parts for name, text in part.machine.items()}
    if told := next((part.settings for part in parts if part.settings), ""):
        facts["PostgreSQL is told"] = told
    rows = []
    for part in parts:
        rounds = max((len(runs) for runs in group(part.runs, *KIND).values()), default=0)
        right = "yes" if part.counts else "no"
        rows.append([part.name, part.command.replace("|", " "), part.commit, part.began, str(rounds), right])
    head = ("part", "command", "commit", "when", "runs of each", "books right")
    machine = table(("what", "which"), [[name, text] for name, text in facts.items()], figures=False)
    audits = "\n".join(f"- {part.name}: {part.audit}" for part in parts)
    return f"{machine}\n\n{table(head, rows, figures=False)}\n\nThe audits after each part:\n\n{audits}"
