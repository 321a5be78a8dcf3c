// What the server does now, and did in the last ten minutes.

import { follow, hasToken } from "./api.js";
import { Chart } from "./charts.js";
import { button, h } from "./dom.js";
import { ago, clock, number, percent } from "./format.js";
import { tables } from "./tables.js";

// Snapshots that are kept: one a second, ten minutes.
const KEPT_MAX = 600;
// Seconds without a word after which it is said.
const SILENCE_SECONDS = 4;

const word = document.getElementById("word");
// The line stays open while other views are looked at.
let snapshots = [];
let heardAt = 0;
let page = null;

const sum = (values) => Object.values(values).reduce((all, value) => all + value, 0);
const of = (name) => (snapshot) => snapshot[name];
const statusColour = { 200: "--s1", 201: "--s3", 400: "--s6", 404: "--s6", 409: "--s4", 422: "--s2", 429: "--s5", 500: "--bad", 503: "--bad" };

const CHARTS = [
  ["Requests by status", "a second", of("requests"), null, statusColour],
  ["Latency", "ms", ({ p50, p95, p99 }) => ({ p50, p95, p99 }), ["p50", "p95", "p99"]],
  ["Refusals by code", "a second", of("problems")],
  ["Account look-ups in the cache", "a second", ({ cache }) => ({ hit: cache.hit ?? 0, miss: cache.miss ?? 0, busy: cache.busy ?? 0 }), ["hit", "miss", "busy"], { miss: "--s4", busy: "--s6" }],
  ["Replays by source", "a second", ({ replays }) => ({ redis: replays.redis ?? 0, postgres: replays.postgres ?? 0 }), ["redis", "postgres"], { postgres: "--s3" }],
  ["Limiter decisions", "a second", ({ limiter }) => ({ admitted: limiter.admitted ?? 0, limited: limiter.limited ?? 0 }), ["admitted", "limited"]],
  ["Batch sizes", "requests a batch", of("batches"), ["gate", "redis", "read", "post"]],
  ["Connections to PostgreSQL in use", "", ({ pools }) => ({ posting: pools["posting used"] ?? 0, reading: pools["reading used"] ?? 0 }), ["posting", "reading"], { reading: "--s3" }],
  ["Requests running and waiting", "", ({ running, waiting }) => ({ reads: running.reads ?? 0, writes: running.writes ?? 0, waiting }), ["reads", "writes", "waiting"]],
  ["Feed and webhooks", "events a second", ({ feed, webhooks }) => ({ feed: feed.events, delivered: webhooks.delivered ?? 0, failed: webhooks.failed ?? 0 }), ["feed", "delivered", "failed"], { delivered: "--s3", failed: "--s2" }],
  ["Behind: events not sent yet", "events", ({ webhooks, sinks }) => ({ webhooks: webhooks.lag ?? 0, sinks: Math.max(0, ...sinks.map(({ events }) => events)) }), ["webhooks", "sinks"], { sinks: "--s3" }],
  ["Timers late, p99", "ms", ({ lag }) => ({ late: lag }), ["late"]],
];

function tiles(snapshot) {
  const { hit = 0, miss = 0, busy = 0 } = snapshot.cache;
  const workers = snapshot.places.filter(({ vital }) => vital);
  const serving = workers.filter(({ state }) => state === "serving").length;
  const shown = [
    ["Requests", number(sum(snapshot.requests)), "/s"],
    ["p50", number(snapshot.p50), "ms"],
    ["p95", number(snapshot.p95), "ms"],
    ["p99", number(snapshot.p99), "ms"],
    ["Refusals", number(sum(snapshot.problems)), "/s"],
    ["Cache hits", percent(hit / (hit + miss + busy)), "%"],
    ["Replays", number(sum(snapshot.replays)), "/s"],
    ["Limited", number(snapshot.limiter.limited ?? 0), "/s"],
    ["Workers", `${serving}`, `of ${workers.length}`],
    ["Findings", number(snapshot.auditor.findings), "in the books"],
  ];
  return h("dl", { class: "tiles" }, shown.map(([name, value, unit]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, " ", h("small", {}, unit)))));
}

class Page {
  constructor() {
    this.charts = CHARTS.map((chart) => new Chart(...chart));
    this.range = h("input", { type: "range", min: 1 - KEPT_MAX, max: 0, value: 0, id: "moment", "aria-describedby": "moment-word", oninput: () => this.draw() });
    this.said = h("output", { id: "moment-word", for: "moment" });
    this.tiles = h("div", {});
    this.tables = h("div", { class: "grid tables" });
    const back = button("Now", () => { this.range.value = 0; this.draw(); });
    this.element = h("div", {},
      this.tiles,
      h("div", { class: "moment" }, h("label", { for: "moment" }, "Moment"), this.range, this.said, back),
      h("div", { class: "grid", id: "charts" }, this.charts.map(({ element }) => element)),
      h("h2", {}, "At this moment"),
      this.tables);
  }

  draw() {
    if (!this.element.isConnected || document.hidden) return;
    if (!snapshots.length) {
      this.said.textContent = "the first numbers come in a second";
      return;
    }
    const back = -Number(this.range.value);
    const position = Math.max(0, snapshots.length - 1 - back);
    const snapshot = snapshots[position];
    this.said.textContent = back ? `${clock(snapshot.at)}, ${ago(snapshots.at(-1).at - snapshot.at)} ago` : `${clock(snapshot.at)}, now`;
    this.range.setAttribute("aria-valuetext", this.said.textContent);
    this.tiles.replaceChildren(tiles(snapshot));
    for (const chart of this.charts) chart.draw(snapshots, snapshot.at);
    this.tables.replaceChildren(...tables(snapshot));
  }
}

function heard(name, data) {
  heardAt = Date.now();
  const last = snapshots.at(-1)?.at ?? 0;
  const fresh = (name === "past" ? data : [data]).filter(({ at }) => at > last);
  snapshots = [...snapshots, ...fresh].slice(-KEPT_MAX);
  tell();
  page?.draw();
}

function tell() {
  const silent = (Date.now() - heardAt) / 1_000;
  const isLate = silent > SILENCE_SECONDS;
  const text = !hasToken() || !heardAt ? "" : isLate ? `no word for ${ago(silent)}` : "live";
  if (word.textContent !== text) word.textContent = text;
  word.dataset.state = !text ? "" : isLate ? "late" : "live";
}

let following = false;

export function live(place) {
  // Made once: its charts are told when colours or sizes change.
  page ??= new Page();
  place.replaceChildren(page.element);
  page.draw();
  if (following) return;
  following = true;
  setInterval(tell, 1_000);
  follow("/live", heard, tell).then(() => { following = false; });
}
