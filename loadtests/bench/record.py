"""What was measured, as JSON: one file a part, from which the document and its plots are written."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.openloop.results import Run


class BenchError(Exception):
    """Something could not be measured; the message says why."""


class Part(NamedTuple):
    """
    A part as it was measured.

    `audit` is what was said of the books afterwards, and `clean` whether they were right: otherwise none of the runs
    counts. `settings` are those of the PostgreSQL that was measured. A part that was interrupted is not `complete`, and
    is measured again the next time.
    """

    name: str
    scale: str
    command: str
    commit: str
    began: str
    took_seconds: float
    clean: bool
    audit: str
    complete: bool
    machine: dict[str, str]
    settings: str
    runs: list[Run]
    notes: Sequence[str] = ()

    @property
    def counts(self) -> bool:
        """Whether its figures may be shown."""
        return self.clean and bool(self.runs)


def write(folder: Path, part: Part) -> None:
    """Keep a part; whoever reads at this moment finds the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{part.name}.json.new"
    draft.write_text(json.dumps(part._asdict(), indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / f"{part.name}.json")


def read(folder: Path, name: str) -> Part | None:
    """Return a part that was kept; None if there is none, or one of another form."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        return Part(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return None


class Spread(NamedTuple):
    """A figure of several runs."""

    middle: float
    low: float
    high: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Return the median of some values, the lowest and the highest."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def group(runs: Iterable[Run], *names: str) -> dict[tuple[Any, ...], list[Run]]:
    """Return the runs that have the same values under these names, in the order in which they were first made."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(run.get(name) for name in names), []).append(run)
    return found


def middle(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    """Return the median of a figure."""
    return statistics.median(figure(run) for run in runs)
