"""Writes benchmarks.md: the words of template.md, which hold no figures, and between them those of measured runs."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtests.bench.record import Part
from loadtests.bench.tables import FIGURES
from loadtests.figures import group, table

# Share of a core from which on the generator may be what limits a run.
BUSY = 0.9
TEMPLATE = Path(__file__).with_name("template.md")
# The fields that identify runs of one kind.
KIND = ("side", "workload", "connections", "share", "step", "transfers", "ledgers", "keys")
_PLACE = re.compile(r"^\{\{(\w+)\}\}$", re.MULTILINE)


def render(parts: Sequence[Part], template: str, document: Path, plots: Path) -> str:
    found = {part.name: part for part in parts}

    def fill(match: "re.Match[str]") -> str:
        name = match[1]
        return _how(parts) if name == "how" else _figures(name, found, document, plots)

    return _PLACE.sub(fill, template)


def _figures(name: str, found: Mapping[str, Part], document: Path, plots: Path) -> str:
    of, make = FIGURES[name]
    part = found.get(of)
    if part is None:
        return "Not measured."
    if not part.counts:
        return f"Measured, but it does not count: {part.audit}."
    pieces = [make(part), *part.notes]
    if not part.complete:
        pieces.append("This part was interrupted; these are the runs that were made until then.")
    busy = sum(run.get("generator_share", 0.0) > BUSY for run in part.runs)
    if busy:
        pieces.append(f"In {busy} of {len(part.runs)} runs the generator used more than {BUSY:.0%} of its core.")
    plot = plots / f"{name}.svg"
    if plot.exists():
        pieces.insert(0, f"![{name}]({os.path.relpath(plot, document.parent)})")
    return "\n\n".join(pieces)


def _how(parts: Sequence[Part]) -> str:
    """Say of everything how, where and when it was measured."""
    facts = {name: text for part in parts for name, text in part.machine.items()}
    if told := next((part.settings for part in parts if part.settings), ""):
        facts["PostgreSQL is told"] = told
    rows = []
    for part in parts:
        rounds = max((len(runs) for runs in group(part.runs, *KIND).values()), default=0)
        seconds = sorted({f"{run['seconds']:.3g}" for run in part.runs if "seconds" in run})
        length = f"{seconds[0]}-{seconds[-1]}" if len(seconds) > 1 else "".join(seconds)
        right = "yes" if part.counts else "no"
        rows.append([part.name, part.command.replace("|", " "), part.commit, part.began, str(rounds), length, right])
    head = ("part", "command", "commit", "when", "runs of each", "seconds of a run", "books right")
    machine = table(("what", "which"), [[name, text] for name, text in facts.items()], figures=False)
    audits = "\n".join(f"- {part.name}: {part.audit}" for part in parts)
    return f"{machine}\n\n{table(head, rows, figures=False)}\n\nThe audits after each part:\n\n{audits}"
