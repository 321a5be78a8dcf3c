"""`python -m loadtests.bench.plots REPORTS FOLDER`: draws the plots as SVG; equal figures make equal files."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt

from loadtests.bench.record import Part, read
from loadtests.bench.report import name_of
from loadtests.figures import Run, group, spread

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#718096")
MARKERS = "osD^v"
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
# Without a salt, every run writes different ids into the file.
SVG = {"svg.hashsalt": "tallystick", "svg.fonttype": "none"}
RATE_AND_P99 = {"per_second": "a second", "p99": "p99, ms"}
P99_DUE = {"p99": "p99, ms, from when a request was due"}


class Plot(NamedTuple):
    """
    The column of the x axis, the figure of each panel, the workload left out, and the format of the column's sizes.
    """

    column: str
    figures: Mapping[str, str] = RATE_AND_P99
    skip: str = ""
    form: str = "{:,}"


# By the name of the part.
PLOTS = {
    "api": Plot("connections", skip="bulk"),
    "open": Plot("share", P99_DUE, form="{:.0%}"),
    "overload": Plot("times", {"per_second": "good a second", "refused_per_second": "refused"}),
    "transfers": Plot("transfers"),
    "connections": Plot("connections", P99_DUE),
    "ledgers": Plot("ledgers"),
    "keys": Plot("keys"),
    "bulk": Plot("connections"),
}


def main() -> int:
    reports, folder = (Path(word) for word in sys.argv[1:3])
    mpl.use("svg")
    mpl.rcParams.update({**STYLE, **SVG})
    folder.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        part = read(reports, name)
        path = folder / f"{name}.svg"
        path.unlink(missing_ok=True)
        if part is not None and part.counts:
            figure = draw(plot, part)
            figure.tight_layout()
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)
    return 0


def draw(plot: Plot, part: Part) -> Any:
    """Draw the panels; latencies get a scale that shows small and large ones."""
    if plot.column == "times":
        # In a curve, only the steps that are multiples of its peak are drawn.
        runs = [{**run, "times": float(run["step"][:-1])} for run in part.runs if run["step"].endswith("x")]
        part = replace(part, runs=runs)
    count = len(plot.figures)
    figure, axes = plt.subplots(1, count, figsize=(4.4 * count + 1.2, 3.8), squeeze=False)
    for panel, (name, label) in zip(axes[0], plot.figures.items(), strict=True):
        _lines(panel, [run for run in part.runs if run["workload"] != plot.skip], plot.column, name)
        panel.set_xlabel(plot.column)
        panel.set_ylabel(label)
        panel.set_xscale("log")
        if name == "p99":
            panel.set_yscale("log")
        else:
            panel.set_ylim(bottom=0)
        sizes = sorted(size for (size,) in group(part.runs, plot.column))
        panel.set_xticks(sizes, labels=[plot.form.format(size) for size in sizes])
        panel.minorticks_off()
    axes[0][0].legend(frameon=False)
    return figure


def _lines(axes: Any, runs: Iterable[Run], column: str, figure: str) -> None:
    """Draw a line for each workload, with bars from the lowest to the highest run."""
    for index, ((workload,), mine) in enumerate(group(runs, "workload").items()):
        points = sorted(group(mine, column).items())
        spreads = [spread([run[figure] for run in some]) for _, some in points]
        axes.errorbar(
            [size for (size,), _ in points],
            [middle for middle, _, _ in spreads],
            yerr=[[middle - low for middle, low, _ in spreads], [high - middle for middle, _, high in spreads]],
            label=name_of(workload),
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            capsize=2,
            markersize=4,
        )


if __name__ == "__main__":
    sys.exit(main())
