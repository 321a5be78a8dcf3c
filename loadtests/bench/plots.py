"""`python -m loadtests.bench.plots REPORTS FOLDER`: the plots, as SVG that is the same whenever the figures are."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from loadtests.bench.record import Part, read
from loadtests.bench.tables import FIGURES, KINDS, label_of, microseconds, name_of
from loadtests.figures import group, spread

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#718096")
MARKERS = "osD^v"
RATE_AND_P99 = {"per_second": "a second", "p99": "p99, ms"}
P99_DUE = {"p99": "p99, ms, from when a request was due"}
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
# Without a salt every run draws other names into the file.
SVG = {"svg.hashsalt": "tallystick", "svg.fonttype": "none"}


def main() -> int:
    """Draw what there are figures for; remove what is out of date."""
    reports, folder = (Path(word) for word in sys.argv[1:3])
    mpl.use("svg")
    mpl.rcParams.update({**STYLE, **SVG})
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
    workloads = [(name, runs) for (name,), runs in group(part.runs, "workload").items() if name not in skip]
    for index, (workload, runs) in enumerate(workloads):
        points = sorted(group(runs, column).items())
        spreads = [spread([run[figure] for run in some]) for _, some in points]
        axes.errorbar(
            [size for (size,), _ in points],
            [found.middle for found in spreads],
            yerr=[[s.middle - s.low for s in spreads], [s.high - s.middle for s in spreads]],
            label=name_of(workload),
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            capsize=2,
            markersize=4,
        )
    axes.set_xlabel(column)
    axes.set_ylabel(label)
    axes.set_xscale("log")


def _panels(
    part: Part, column: str, figures: Mapping[str, str] = RATE_AND_P99, skip: Iterable[str] = (), form: str = "{:,}"
) -> Any:
    """Draw a panel for each figure, by a column; latencies on a scale that shows small and large ones."""
    figure, axes = plt.subplots(1, len(figures), figsize=(4.4 * len(figures) + 1.2, 3.8), squeeze=False)
    for panel, (name, label) in zip(axes[0], figures.items(), strict=True):
        _lines(panel, part, column, name, label, skip=skip)
        if name == "p99":
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
        sizes = sorted(size for (size,) in group(part.runs, column))
        panel.set_xticks(sizes, labels=[form.format(size) for size in sizes])
        panel.minorticks_off()
    axes[0][0].legend(frameon=False)
    return figure


def _sides(part: Part) -> Any:
    """Draw points, not bars: on a scale without a zero the length of a bar says nothing."""
    figure, axes = plt.subplots(figsize=(10.0, 4.2))
    rows = list(group(part.runs, "side", "workload").items())[::-1]
    for height, ((side, _), runs) in enumerate(rows):
        found = spread([run["per_second"] for run in runs])
        colour = COLOURS[0 if side == "tallystick" else 1 if side == "peer" else 4]
        ends = [[found.middle - found.low], [found.high - found.middle]]
        axes.errorbar(found.middle, height, xerr=ends, color=colour, marker="o", capsize=2)
        axes.annotate(f"{found.middle:,.0f}", (found.middle, height), xytext=(8, -3), textcoords="offset points")
    axes.set_yticks(range(len(rows)), labels=[label_of(*key) for key, _ in rows])
    axes.set_xscale("log")
    axes.set_xlabel("a second")
    axes.margins(x=0.12)
    return figure


def _cpu(part: Part) -> Any:
    figure, axes = plt.subplots(figsize=(10.0, 4.6))
    found = {what: runs for (side, what), runs in group(part.runs, "side", "workload").items() if side == "tallystick"}
    names = [name_of(what) for what in found][::-1]
    starts = [0.0] * len(found)
    for index, (kind, kind_name) in enumerate(KINDS.items()):
        for mode, (mode_name, alpha) in enumerate((("user", 1.0), ("system", 0.5))):
            times = [[(microseconds(run, kind) or (0.0, 0.0))[mode] for run in runs] for runs in found.values()]
            values = [spread(some).middle for some in times][::-1]
            label = f"{kind_name}, {mode_name}"
            axes.barh(names, values, left=starts, color=COLOURS[index], alpha=alpha, label=label)
            starts = [start + value for start, value in zip(starts, values, strict=True)]
    axes.set_xlabel("µs of CPU a request")
    axes.legend(frameon=False)
    return figure


def _overload(part: Part) -> Any:
    runs = [{**run, "times": float(run["step"][:-1])} for run in part.runs if run["step"].endswith("x")]
    return _panels(replace(part, runs=runs), "times", {"per_second": "good a second", "refused_per_second": "refused"})


DRAWINGS: dict[str, Callable[[Part], Any]] = {
    "api": partial(_panels, column="connections", skip=("bulk",)),
    "sides": _sides,
    "cpu": _cpu,
    "open": partial(_panels, column="share", figures=P99_DUE, form="{:.0%}"),
    "overload": _overload,
    "transfers": partial(_panels, column="transfers"),
    "connections": partial(_panels, column="connections", figures=P99_DUE),
    "ledgers": partial(_panels, column="ledgers"),
    "keys": partial(_panels, column="keys"),
    "bulk": partial(_panels, column="connections"),
}

if __name__ == "__main__":
    sys.exit(main())
