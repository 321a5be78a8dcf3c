// What a snapshot says of workers, accounts, keys, sinks and jobs.

import { card, facts, h, table, tag } from "./dom.js";
import { ago, bytes, number } from "./format.js";

const STATES = { serving: "good", starting: "warn", draining: "warn", restarting: "bad" };

const of = (place, ledger, path, text) => h("a", { href: `#${place}/${ledger}/${path}` }, text);
const counted = (values) => Object.entries(values).sort((one, other) => other[1] - one[1]);

function processes({ places }) {
  const name = ({ label, vital }) => (vital ? `worker ${label}` : label);
  return card("Processes", table([
    ["Process", name, "k"],
    ["State", ({ state }) => tag(state, STATES[state])],
    ["Pid", ({ pid }) => pid || "–", "n"],
    ["Restarts", ({ restarts }) => restarts, "n"],
    ["CPU %", ({ cpu }) => (cpu === undefined ? "–" : number(100 * cpu, 0)), "n"],
    ["Memory", ({ memory }) => bytes(memory), "n"],
    ["Silent", ({ silent_seconds }) => ago(silent_seconds), "n"],
  ], places));
}

function busy({ hot }) {
  return card(["Busy accounts ", h("small", {}, "transfers in 10 s")], table([
    ["Account", ([ledger, account]) => of("find", ledger, `account/${encodeURIComponent(account)}`, account)],
    ["Ledger", ([ledger]) => ledger, "n"],
    ["Transfers", ([, , number]) => number, "n"],
  ], hot, "No transfers."));
}

function limited({ keys }) {
  return card(["Limiter by key ", h("small", {}, "requests in 10 s")], table([
    ["Key", ([ledger, key]) => of("keys", ledger, "", h("span", { class: "id" }, key))],
    ["Ledger", ([ledger]) => ledger, "n"],
    ["Admitted", ([, , asked, refused]) => asked - refused, "n"],
    ["Limited", ([, , , refused]) => (refused ? tag(refused, "warn") : "0"), "n"],
  ], keys, "No requests."));
}

function refusals({ problems }) {
  return card(["Refusals ", h("small", {}, "a second")], table([
    ["Code", ([code]) => h("code", {}, code)],
    ["", ([, value]) => number(value), "n"],
  ], counted(problems)));
}

function sinks({ sinks: rows }) {
  return card("Sinks", table([
    ["Sink", ({ sink }) => sink],
    ["State", ({ halted }) => (halted ? tag("halted", "bad") : tag("runs", "good"))],
    ["Sent /s", ({ sent }) => number(sent), "n"],
    ["Behind", ({ events }) => number(events, 0), "n"],
    ["Oldest", ({ seconds }) => ago(seconds), "n"],
  ], rows, "No sinks."));
}

function jobs({ feed, webhooks, auditor, away }) {
  const stores = Object.entries(away).filter(([, workers]) => workers).map(([store, workers]) => tag(`${store} away for ${workers}`, "bad"));
  return card("Feed, webhooks, auditor", facts([
    ["Stores", stores.length ? stores : tag("answer", "good")],
    ["Feed", `${number(feed.events)} events/s, ${ago(feed.lag)} behind`],
    ["Webhooks", `${number(webhooks.delivered ?? 0)} delivered/s, ${number(webhooks.failed ?? 0)} failed/s, ${number(webhooks.dead ?? 0)} given up/s, ${number(webhooks.lag)} events behind`],
    ["Auditor", `${number(auditor.rows, 0)} rows/s, last whole round ${ago(auditor.age)} ago`],
    ["Findings", auditor.findings ? tag(`${auditor.findings} errors in the books`, "bad") : auditor.findings === 0 ? tag("none", "good") : "–"],
  ]));
}

export function tables(snapshot) {
  return [processes, jobs, busy, limited, refusals, sinks].map((made) => made(snapshot));
}
