// Charts of the last ten minutes.

import { h } from "./dom.js";
import { number } from "./format.js";

const SECONDS = 600;
const HEIGHT = 130;
// Lines of a chart at most.
const LINES_MAX = 6;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");

// The names that a chart of many has lines for: those with the largest sums in the time shown.
function largest(snapshots, values) {
  const sums = new Map();
  for (const snapshot of snapshots) {
    for (const [name, value] of Object.entries(values(snapshot))) sums.set(name, (sums.get(name) ?? 0) + (value ?? 0));
  }
  const chosen = [...sums].sort((one, other) => other[1] - one[1]).slice(0, LINES_MAX);
  return chosen.map(([name]) => name).sort();
}

export class Chart {
  // `values` gives the values of a snapshot by name; without `names` these are found in the snapshots.
  constructor(title, unit, values, names = null, colours = {}) {
    this.values = values;
    this.fixed = names;
    this.colours = colours;
    this.names = [];
    this.plot = null;
    this.place = h("div", {});
    this.element = h("figure", { class: "card" }, h("figcaption", {}, title, h("small", {}, unit)), this.place);
    dark.addEventListener("change", () => this.forget());
    new ResizeObserver(() => this.plot?.setSize({ width: this.place.clientWidth, height: HEIGHT })).observe(this.place);
  }

  forget() {
    this.plot?.destroy();
    this.plot = null;
  }

  draw(snapshots, moment) {
    if (!this.place.clientWidth) return;
    const names = this.fixed ?? largest(snapshots, this.values);
    if (!this.plot || names.join() !== this.names.join()) {
      this.forget();
      this.names = names;
      this.plot = new uPlot(this.options(), [[], ...names.map(() => [])], this.place);
    }
    const told = snapshots.map(this.values);
    const data = [snapshots.map(({ at }) => at), ...names.map((name) => told.map((values) => values[name] ?? (this.fixed ? null : 0)))];
    this.plot.setData(data, false);
    const end = snapshots.at(-1).at;
    this.plot.batch(() => {
      this.plot.setScale("x", { min: end - SECONDS, max: end });
      this.plot.setCursor({ left: this.plot.valToPos(moment, "x"), top: HEIGHT / 3 });
    });
  }

  options() {
    const [ink, line] = [style("--soft"), style("--line")];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width: this.place.clientWidth,
      height: HEIGHT,
      cursor: { y: false, points: { size: 5 }, drag: { x: false, y: false }, sync: { key: "console" } },
      legend: { markers: { width: 0, fill: (plot, position) => plot.series[position].stroke() } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.08] } },
      axes: [
        { ...axis, size: 24, space: 70, values: (_, ticks) => ticks.map((at) => new Date(1_000 * at).toLocaleTimeString("en-GB").slice(0, 5)) },
        { ...axis, size: 44, space: 28, values: (_, ticks) => ticks.map((value) => number(value)) },
      ],
      series: [{}, ...this.names.map((name, position) => {
        const stroke = style(this.colours[name] ?? `--s${(position % LINES_MAX) + 1}`);
        return { label: name, stroke, fill: null, width: 1.5, points: { show: false }, value: (_, value) => number(value), spanGaps: false };
      })],
    };
  }
}
