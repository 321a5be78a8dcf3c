"""What was measured, as JSON: one file a part, from which the document and its plots are written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from loadtests.errors import NotRunError
from loadtests.figures import Run


class BenchError(NotRunError):
    """Something could not be measured; the message says why."""


class Part(NamedTuple):
    """
    A part as it was measured.

    `audit` is what was said of the books afterwards, and `clean` whether they were right: otherwise none of the runs
    counts. `settings` are those of the PostgreSQL that was measured. A part that was interrupted is not `complete`, and
    is measured again the next time. `notes` are what a reader has to know of the figures, in sentences.
    """

    scale: str
    command: str
    commit: str
    machine: dict[str, str]
    name: str = ""
    began: str = ""
    took_seconds: float = 0.0
    clean: bool = True
    audit: str = ""
    complete: bool = True
    settings: str = ""
    runs: Sequence[Run] = ()
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
    try:
        return Part(**json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
