"""The figures of each part as Markdown tables: medians, with the lowest and the highest where there are several."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from loadtests.bench.record import Part
from loadtests.figures import RATE, Column, Run, group, percent, runs_table, spread, table
from loadtests.openloop.results import CURVE

# What the figures call it, and what a reader does.
NAMES = {
    "read": "cached read",
    "replay": "replay",
    "post": "first post",
    "hot": "first post, one hot account",
    "bulk": "bulk, transfers",
    "statement": "statement, newest 20",
    "spread": "TPC-B, scale 20",
    "rows": "a row",
}
# Behind what the generator was late itself for.
LATE = " †"
LATE_NOTE = (
    f"{LATE.strip()} In at least one of these runs the generator itself was late: they say little of the server."
)
KINDS = {"server": "server", "postgres": "PostgreSQL", "redis": "Valkey", "generator": "generator"}


def name_of(workload: str) -> str:
    return NAMES.get(workload, workload)


def label_of(side: str, workload: str) -> str:
    """Return what a reader calls a workload of one side."""
    return "pgbench: TPC-B, scale 1" if (side, workload) == ("pgbench", "hot") else f"{side}: {name_of(workload)}"


def microseconds(run: Run, kind: str) -> tuple[float, float] | None:
    """Return the user and the system time that a request took of one kind of process; None where it had no part."""
    if kind not in run["cpu"]:
        return None
    answered = run.get("answered") or run["per_second"] * run["seconds"]
    user, system = run["cpu"][kind]
    return 1e6 * user / max(answered, 1), 1e6 * system / max(answered, 1)


def _of_kind(run: Run, *, kind: str, index: int) -> float | None:
    found = microseconds(run, kind)
    return None if found is None else found[index]


def _without_generator(run: Run) -> float:
    return sum(sum(microseconds(run, kind) or ()) for kind in KINDS if kind != "generator")


def _not_answered(run: Run) -> float:
    return float(sum(run["other"].values()))


# Names of runs in the first column, by the value that identifies them.
_LABELS: dict[str, Callable[[Any], str]] = {
    "workload": name_of,
    "share": lambda share: f"{share:.0%} of the peak",
    "side": str,
    "step": str,
}
P50, P99, P999 = Column("p50 ms", "p50"), Column("p99 ms", "p99"), Column("p99.9 ms", "p999")
LAG = Column("generator's lag, p99 ms", "lag_p99")
TIMES = Column("times that beside it", "times", spreads=True)


class Table(NamedTuple):
    """Of which part, with a row for which runs, and with which columns."""

    part: str
    by: tuple[str, ...]
    columns: tuple[Column, ...]
    head: str = "what"

    def markdown(self, part: Part) -> str:
        """Return it, with a note where the generator was late."""
        late = any(run.get("late_generator") for run in part.runs)
        rows = []
        for key, runs in group(part.runs, *self.by).items():
            words = [
                _LABELS.get(name, partial(_counted, name))(value) for name, value in zip(self.by, key, strict=True)
            ]
            mark = LATE if any(run.get("late_generator") for run in runs) else ""
            rows.append((", ".join(words) + mark, runs))
        text = runs_table(self.head, rows, self.columns)
        return f"{text}\n\n{LATE_NOTE}" if late else text


def _counted(name: str, value: int) -> str:
    return f"{value:,} {name.removesuffix('s') if value == 1 else name}"


def _beside(part: Part) -> str:
    """Tallystick beside the others."""
    found = group(part.runs, "side", "workload")
    rows = []
    for (side, workload), ours in found.items():
        theirs = found.get(("peer", workload))
        if side == "tallystick" and theirs:
            rates = [spread([run["per_second"] for run in runs]).middle for runs in (ours, theirs)]
            times = f"{rates[0] / max(rates[1], 1e-9):.1f}"
            rows.append([name_of(workload), RATE.cell(ours), RATE.cell(theirs), times])
    names = {
        ("bare", "read"): "aiohttp handler that answers the bytes of a read and does nothing else, 64 connections",
        ("pgbench", "spread"): "`pgbench` TPC-B, scale 20, 16 clients, transactions",
        ("pgbench", "hot"): "`pgbench` TPC-B, scale 1 (one hot row), 16 clients, transactions",
        ("insert", "rows"): "plain INSERT of 500 rows into the same table with the same indexes, 4 clients, rows",
    }
    others = runs_table("beside it", [(words, found[key]) for key, words in names.items() if key in found], [RATE])
    head = ("what, 64 connections", "Tallystick, a second", "peer, a second", "times")
    return f"{table(head, rows)}\n\n{others}"


# By the name that the template knows.
TABLES = {
    "api": Table("api", ("workload", "connections"), (RATE, P50, P99, P999, Column("not answered 2xx", _not_answered))),
    "cpu": Table(
        "sides",
        ("side", "workload"),
        (
            *(
                Column(f"{name}, {mode}", partial(_of_kind, kind=kind, index=index))
                for kind, name in KINDS.items()
                for index, mode in enumerate(("user", "system"))
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
            LAG,
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
    "generator": Table(
        "generator",
        ("side", "connections"),
        (RATE, Column("CPU of the generator, of one core", "generator_share", percent)),
        "a bare handler asked by",
    ),
}
# The part whose figures they are, and what makes Markdown of them, by the name that the template knows.
FIGURES: dict[str, tuple[str, Callable[[Part], str]]] = {
    "sides": ("sides", _beside),
    **{name: (of.part, of.markdown) for name, of in TABLES.items()},
}
