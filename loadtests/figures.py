"""Figures of runs by name, their medians over several runs, and tables of them."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

# A run: its labels and its figures, by name.
Run = dict[str, Any]
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the lowest and the highest value."""
    return statistics.median(values), min(values), max(values)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that *share* of the ordered values do not exceed; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def grouped(items: Iterable[T], name: Callable[[T], K]) -> dict[K, list[T]]:
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(name(item), []).append(item)
    return found


def group(runs: Iterable[Run], *names: str) -> dict[tuple[Any, ...], list[Run]]:
    """Group runs that have the same values under these names, in the order of the first run of each group."""
    return grouped(runs, lambda run: tuple(run.get(name) for name in names))


def number(value: float) -> str:
    """Return a figure with three digits, or with all digits before its point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    return f"{share:.0%}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], figures: bool = True) -> str:
    """Return a Markdown table; all columns but the first are aligned as figures if *figures* is true."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + (" ---: |" if figures else " --- |") * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def aligned(text: str) -> str:
    """Return a Markdown table for a terminal, with each column as wide as its longest cell."""
    # All lines but the one under the head.
    lines = [line for line in text.splitlines() if line.strip("|-: ")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


class Column(NamedTuple):
    """
    A figure of runs, given by its name or by a function of the run; shown with its lowest and highest if it `spreads`.
    """

    head: str
    figure: str | Callable[[Run], float | None]
    form: Callable[[float], str] = number
    spreads: bool = False

    def cell(self, runs: Sequence[Run]) -> str:
        """Return the figure for these runs; a dash if they do not have it."""
        figure = self.figure
        values = [run.get(figure) if isinstance(figure, str) else figure(run) for run in runs]
        known = [value for value in values if value is not None]
        if not known:
            return "-"
        middle, low, high = map(self.form, spread(known))
        return f"{middle} ({low}-{high})" if self.spreads and len(known) > 1 else middle


RATE = Column("a second", "per_second", spreads=True)


def runs_table(head: str, rows: Iterable[tuple[str, Sequence[Run]]], columns: Sequence[Column]) -> str:
    cells = [[name, *(column.cell(runs) for column in columns)] for name, runs in rows]
    return table((head, *(column.head for column in columns)), cells)
