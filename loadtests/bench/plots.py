"""`python -m loadtests.bench.plots REPORTS FOLDER`: the plots, as SVG that is the same whenever the figures are."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from loadtests.bench.record import Part, group, middle, read, spread
from loadtests.bench.tables import FIGURES, KINDS, label_of, microseconds, name_of

WIDE = (10.0, 3.8)
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#718096")
MARKERS = "osD^v"


def main() -> int:
    """Draw what there are figures for; remove what is out of date."""
    reports, folder = (Path(word) for word in sys.argv[1:3])
    mpl.use("svg")
    # Without a salt every run draws other names into the file.
    mpl.rcParams.update({"svg.hashsalt": "tallystick", "svg.fonttype": "none", "font.size": 9, "axes.grid": True})
    mpl.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        part = read(reports, FIGURES[name][0])
        path = folder / f"{name}.svg"
        if part is None or not part.counts:
            path.unlink(missing_ok=True)
            continue
        figure = draw(part)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return 0


def _lines(axes: Any, part: Part, column: str, figure: str, label: str, *, skip: Iterable[str] = ()) -> None:
    """Draw a line for each workload, with bars from the lowest to the highest run."""
    for index, (workload,) in enumerate(key for key in group(part.runs, "workload") if key[0] not in skip):
        runs = [run for run in part.runs if run["workload"] == workload]
        points = sorted(group(runs, column).items())
        xs = [size for (size,), _ in points]
        spreads = [spread([run[figure] for run in some]) for _, some in points]
        errors = [[s.middle - s.low for s in spreads], [s.high - s.middle for s in spreads]]
        axes.errorbar(
            xs,
            [s.middle for s in spreads],
            yerr=errors,
            label=name_of(workload),
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            capsize=2,
            markersize=4,
        )
    axes.set_xlabel(column)
    axes.set_ylabel(label)
    axes.set_xscale("log")
    sizes = sorted(key[0] for key in group(part.runs, column))
    axes.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
    axes.minorticks_off()


def _two(part: Part, column: str, skip: Iterable[str] = ()) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=WIDE)
    _lines(left, part, column, "per_second", "a second", skip=skip)
    _lines(right, part, column, "p99", "p99, ms", skip=skip)
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    left.legend(frameon=False)
    return figure


def _api(part: Part) -> Any:
    return _two(part, "connections", ("bulk",))


def _transfers(part: Part) -> Any:
    return _two(part, "transfers")


def _ledgers(part: Part) -> Any:
    return _two(part, "ledgers")


def _sides(part: Part) -> Any:
    """Draw points, not bars: on a scale without a zero the length of a bar says nothing."""
    figure, axes = plt.subplots(figsize=(10.0, 4.2))
    rows = list(group(part.runs, "side", "workload").items())[::-1]
    for height, ((side, _), runs) in enumerate(rows):
        found = spread([run["per_second"] for run in runs])
        colour = COLOURS[0 if side == "tallystick" else 1 if side == "peer" else 4]
        axes.errorbar(
            found.middle,
            height,
            xerr=[[found.middle - found.low], [found.high - found.middle]],
            color=colour,
            marker="o",
            capsize=2,
        )
        axes.annotate(f"{found.middle:,.0f}", (found.middle, height), xytext=(8, -3), textcoords="offset points")
    axes.set_yticks(range(len(rows)), labels=[label_of(*key) for key, _ in rows])
    axes.set_xscale("log")
    axes.set_xlabel("a second")
    axes.margins(x=0.12)
    return figure


def _cpu(part: Part) -> Any:
    figure, axes = plt.subplots(figsize=(10.0, 4.6))
    found = {key: runs for key, runs in group(part.runs, "side", "workload").items() if key[0] == "tallystick"}
    names = [name_of(what) for _, what in found][::-1]
    starts = [0.0] * len(found)
    for index, kind in enumerate(KINDS):
        for share, alpha in ((0, 1.0), (1, 0.5)):
            values = [
                middle(runs, lambda run, kind=kind, share=share: microseconds(run, kind)[share])  # type: ignore[misc]
                for runs in found.values()
            ][::-1]
            label = f"{kind}, {'system' if share else 'user'}"
            axes.barh(names, values, left=starts, color=COLOURS[index], alpha=alpha, label=label)
            starts = [start + value for start, value in zip(starts, values, strict=True)]
    axes.set_xlabel("µs of CPU a request")
    axes.legend(frameon=False)
    return figure


def _open(part: Part) -> Any:
    figure, axes = plt.subplots(figsize=(6.0, 3.8))
    _lines(axes, part, "share", "p99", "p99, ms, from when a request was due")
    axes.set_xscale("linear")
    shares = sorted(key[0] for key in group(part.runs, "share"))
    axes.set_xticks(shares, labels=[f"{share:.0%}" for share in shares])
    axes.set_xlabel("share of the peak")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def _overload(part: Part) -> Any:
    figure, axes = plt.subplots(figsize=(6.0, 3.8))
    found = {step: runs for (step,), runs in group(part.runs, "step").items() if step.endswith("x")}
    factors = [float(step[:-1]) for step in found]
    for index, (name, label) in enumerate((("per_second", "good"), ("refused_per_second", "refused"))):
        values = [middle(runs, lambda run, name=name: float(run[name])) for runs in found.values()]  # type: ignore[misc]
        axes.plot(factors, values, label=label, color=COLOURS[index], marker=MARKERS[index])
    axes.set_xlabel("load, times the peak")
    axes.set_ylabel("a second")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _connections(part: Part) -> Any:
    figure, axes = plt.subplots(figsize=(6.0, 3.8))
    _lines(axes, part, "connections", "p99", "p99, ms")
    axes.set_ylim(bottom=0)
    return figure


DRAWINGS: dict[str, Callable[[Part], Any]] = {
    "api": _api,
    "sides": _sides,
    "cpu": _cpu,
    "open": _open,
    "overload": _overload,
    "transfers": _transfers,
    "connections": _connections,
    "ledgers": _ledgers,
}

if __name__ == "__main__":
    sys.exit(main())
