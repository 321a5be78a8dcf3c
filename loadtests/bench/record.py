"""Keeps what was measured as JSON, one file for each part; the document and its plots are written from them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadtests.figures import Run


@dataclass
class Part:
    """
    The measurements of one part of the benchmark.

    `audit` is what the audits of the books said afterwards, and `clean` whether the books were right. `settings` are
    those of PostgreSQL. A part that was interrupted is not `complete`. `notes` are what a reader has to know about the
    figures.
    """

    name: str
    scale: str
    command: str
    commit: str
    machine: dict[str, str]
    began: str = ""
    took_seconds: float = 0.0
    clean: bool = True
    audit: str = ""
    complete: bool = True
    settings: str = ""
    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether its figures may be shown: its books were audited and were right."""
        return self.clean and bool(self.audit) and bool(self.runs)

    def is_as_good_as(self, other: "Part") -> bool:
        same = (self.commit, self.scale, self.machine) == (other.commit, other.scale, other.machine)
        return same and self.complete and self.counts

    def audited(self, what: str, clean: bool, words: str) -> None:
        self.clean = self.clean and clean
        self.audit += f"{'; ' if self.audit else ''}{what}: {words}"


def write(folder: Path, part: Part) -> None:
    """Write a part to its file atomically: a reader finds the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{part.name}.json.new"
    draft.write_text(json.dumps(asdict(part), indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / f"{part.name}.json")


def read(folder: Path, name: str) -> Part | None:
    """Return a part that was kept; None if there is none, or if its file has another format."""
    try:
        return Part(**json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
