// Webhook endpoints: what each was sent, and what it is to be sent again.

import { api, query } from "./api.js";
import { ask, button, card, facts, field, h, table, tag } from "./dom.js";
import { instant, number } from "./format.js";
import { pages } from "./account.js";

const PAGE = 25;
const OUTCOMES = { delivered: "good", failed: "warn", dead: "bad", gone: "bad" };

function replay(ledger, endpoint, done) {
  const fields = [
    h("p", {}, "All events from a position on are sent again, also those that have arrived. Receivers tell them by their ids."),
    field("From position", "position", { type: "number", min: 1, required: true, value: Math.max(1, endpoint.position) }),
  ];
  ask("Replay", fields, "Send again", async ({ position }) => {
    await api(ledger.id, "POST", `/v1/webhook-endpoints/${endpoint.id}/replay`, { from_position: Number(position) });
    done();
  });
}

function switched(ledger, endpoint, done) {
  const state = endpoint.state === "enabled" ? "disabled" : "enabled";
  ask(`${endpoint.state === "enabled" ? "Disable" : "Enable"} this endpoint?`, [h("p", {}, endpoint.url)], "Yes", async () => {
    await api(ledger.id, "PATCH", `/v1/webhook-endpoints/${endpoint.id}`, { state });
    done();
  });
}

async function detail(ledger, endpoint, done) {
  const path = `/v1/webhook-endpoints/${endpoint.id}`;
  const deliveries = pages("Deliveries", [
    ["Tried (UTC)", ({ attempted_at }) => instant(attempted_at), "k"],
    ["Event", ({ position }) => position, "n"],
    ["Type", ({ type }) => type, "k"],
    ["Attempt", ({ attempt }) => attempt, "n"],
    ["Outcome", ({ outcome }) => tag(outcome, OUTCOMES[outcome])],
    ["Status", ({ status, error }) => status ?? error],
    ["Took", ({ duration_ms }) => `${number(Number(duration_ms))} ms`, "n"],
    ["Answer", ({ answer }) => h("code", {}, answer)],
  ], (cursor) => api(ledger.id, "GET", `${path}/deliveries${query({ limit: PAGE, cursor })}`), "Nothing was sent lately.");
  const waiting = pages("Not arrived", [
    ["Event", ({ position }) => position, "n"],
    ["State", ({ state }) => tag(state, state === "dead" ? "bad" : "warn")],
    ["Attempts", ({ attempts }) => attempts, "n"],
    ["Last (UTC)", ({ attempted_at }) => instant(attempted_at), "k"],
    ["Next (UTC)", ({ next_attempt_at }) => instant(next_attempt_at) ?? "none", "k"],
  ], (cursor) => api(ledger.id, "GET", `${path}/undelivered${query({ limit: PAGE, cursor })}`), "All events have arrived.");
  await Promise.all([deliveries.first, waiting.first]);
  return [
    card(["Endpoint ", h("span", { class: "id" }, endpoint.id)], facts([
      ["URL", endpoint.url],
      ["Description", endpoint.description],
      ["Types", endpoint.types.join(", ") || "all"],
      ["Sent up to", endpoint.position],
    ]), h("div", { class: "buttons" },
      button("Replay", () => replay(ledger, endpoint, done), { class: "main" }),
      button(endpoint.state === "enabled" ? "Disable" : "Enable", () => switched(ledger, endpoint, done)))),
    deliveries.element,
    waiting.element,
  ];
}

export async function webhooks(place, ledger, [chosen]) {
  const read = async () => {
    const page = await api(ledger.id, "GET", `/v1/webhook-endpoints${query({ limit: 100 })}`);
    const list = card(`Webhook endpoints of ${ledger.name}`, table([
      ["URL", ({ id, url }) => h("a", { href: `#webhooks/${ledger.id}/${id}`, "aria-current": id === chosen ? "true" : null }, url)],
      ["State", ({ state, disabled_reason }) => tag(disabled_reason ? `${state}: ${disabled_reason}` : state, state === "enabled" ? "good" : "warn")],
      ["Sent up to", ({ position }) => position, "n"],
      ["Made (UTC)", ({ created_at }) => instant(created_at)?.slice(0, 16), "k"],
    ], page.data, "No endpoints."));
    const endpoint = page.data.find(({ id }) => id === chosen);
    place.replaceChildren(h("div", { class: "stack" }, list, endpoint ? await detail(ledger, endpoint, read) : null));
  };
  await read();
}
