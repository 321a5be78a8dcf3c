"""Figures as text."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are figures."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def aligned(text: str) -> str:
    """Return a Markdown table for a terminal: each column as wide as its longest cell."""
    # All lines but the one below the head.
    lines = [line for line in text.splitlines() if line.strip("|-: ")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
