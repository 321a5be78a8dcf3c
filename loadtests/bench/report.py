"""Writes benchmarks.md: the words of template.md, which hold no figures, and between them those of measured runs."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtests.bench.record import Part, group
from loadtests.bench.tables import FIGURES
from loadtests.openloop.results import Run
from loadtests.text import table

# Share of a core from which on the generator may be what limits a run.
BUSY = 0.9
TEMPLATE = Path(__file__).with_name("template.md")
_PLACE = re.compile(r"^\{\{(\w+)\}\}$", re.MULTILINE)


class TemplateError(Exception):
    """The template asks for figures that there are none of."""


def write_document(parts: Sequence[Part], document: Path, plots: Path) -> None:
    """Write the document from what has been measured."""
    document.write_text(render(parts, TEMPLATE.read_text(encoding="utf-8"), document, plots), encoding="utf-8")


def render(parts: Sequence[Part], template: str, document: Path, plots: Path) -> str:
    """
    Return the document.

    Raises:
        TemplateError: A place of the template has no meaning.
    """
    found = {part.name: part for part in parts}

    def fill(match: "re.Match[str]") -> str:
        name = match[1]
        if name == "how":
            return _how(parts)
        if name not in FIGURES:
            raise TemplateError(f"there are no figures called {name}")
        return _figures(name, found, document, plots)

    return _PLACE.sub(fill, template)


def _figures(name: str, found: Mapping[str, Part], document: Path, plots: Path) -> str:
    of, make = FIGURES[name]
    part = found.get(of)
    if part is None:
        return "Not measured."
    if not part.counts:
        return f"Measured, but it does not count: {part.audit}."
    pieces = [make(part), *_notes(part)]
    plot = plots / f"{name}.svg"
    if plot.exists():
        pieces.insert(0, f"![{name}]({os.path.relpath(plot, document.parent)})")
    return "\n\n".join(pieces)


def _notes(part: Part) -> list[str]:
    notes = list(part.notes)
    if not part.complete:
        notes.append("This part was interrupted; these are the runs that were made until then.")
    busy = [run for run in part.runs if run.get("generator_share", 0.0) > BUSY]
    if busy:
        notes.append(f"In {len(busy)} of {len(part.runs)} runs the generator used more than {BUSY:.0%} of its core.")
    return notes


def _how(parts: Sequence[Part]) -> str:
    """Say of everything how, where and when it was measured."""
    facts = {name: text for part in parts for name, text in part.machine.items()}
    if told := next((part.settings for part in parts if part.settings), ""):
        facts["PostgreSQL is told"] = told
    machine = table(("what", "which"), [[name, text] for name, text in facts.items()]).replace("---:", "---")
    rows = []
    for part in parts:
        shown = "yes" if part.counts else "no"
        rounds = max((len(runs) for runs in _same(part.runs)), default=0)
        seconds = sorted({f"{run['seconds']:.3g}" for run in part.runs if "seconds" in run})
        length = f"{seconds[0]}-{seconds[-1]}" if len(seconds) > 1 else "".join(seconds)
        rows.append([part.name, part.command.replace("|", " "), part.commit, part.began, str(rounds), length, shown])
    head = ("part", "command", "commit", "when", "runs of each", "seconds of a run", "books right")
    audits = "\n".join(f"- {part.name}: {part.audit}" for part in parts)
    return f"{machine}\n\n{table(head, rows).replace('---:', '---')}\n\nThe audits after each part:\n\n{audits}"


def _same(runs: Sequence[Run]) -> list[list[Run]]:
    names = ("side", "workload", "connections", "share", "step", "transfers", "ledgers")
    return list(group(runs, *names).values())
