// An account: its limits and balances, its statement, and its holds.

import { api, query } from "./api.js";
import { button, card, facts, h, table, tag } from "./dom.js";
import { instant, json, money } from "./format.js";
import { accountLink, shortId, transferLink } from "./links.js";

const PAGE = 25;
// Holds whose state is asked for.
const HOLDS = 20;

function summary(found) {
  const { currency } = found;
  return card(["Account ", h("span", { class: "id" }, found.id), " ", found.closed ? tag("closed", "warn") : tag("open", "good")], facts([
    ["Balance", h("strong", {}, money(found.balance, currency))],
    ["Available", money(found.available, currency)],
    ["Held, outgoing", money(found.held_out, currency)],
    ["Held, incoming", money(found.held_in, currency)],
    ["Floor", found.floor === null ? "none" : money(found.floor, currency)],
    ["Ceiling", found.ceiling === null ? "none" : money(found.ceiling, currency)],
    ["Version", found.version],
    ["Opened", instant(found.created_at)],
    ["Metadata", Object.keys(found.metadata ?? {}).length ? h("pre", {}, json(found.metadata)) : null],
  ]));
}

// A list that is read on page by page.
export function pages(title, columns, read, empty) {
  const rows = [];
  const place = h("div", {});
  const more = button("Older", () => readOn());
  let cursor;
  async function readOn() {
    more.disabled = true;
    const page = await read(cursor);
    rows.push(...page.data);
    cursor = page.next_cursor;
    more.disabled = false;
    more.hidden = !cursor;
    place.replaceChildren(table(columns, rows, empty));
  }
  return { element: card(title, place, h("p", {}, more)), first: readOn() };
}

function statement(ledger, found) {
  const columns = [
    ["Posted (UTC)", ({ created_at }) => instant(created_at), "k"],
    ["Kind", ({ kind }) => kind],
    ["Amount", ({ amount }) => money(amount, found.currency), "n"],
    ["Balance", ({ balance }) => money(balance, found.currency), "n"],
    ["Other side", ({ counterparty }) => accountLink(ledger, counterparty)],
    ["Reference", ({ reference }) => reference],
    ["Transfer", ({ transfer_id }) => transferLink(ledger, transfer_id, shortId(transfer_id)), "k"],
  ];
  const path = `/v1/accounts/${encodeURIComponent(found.id)}/entries`;
  return pages("Statement", columns, (cursor) => api(ledger.id, "GET", path + query({ limit: PAGE, cursor })), "Nothing was posted.");
}

async function holds(ledger, found) {
  const page = await api(ledger.id, "GET", `/v1/transfers${query({ account: found.id, kind: "hold", limit: HOLDS })}`);
  const now = await Promise.all(page.data.map(({ id }) => api(ledger.id, "GET", `/v1/transfers/${id}`)));
  return card(["Holds ", h("small", {}, `the newest ${HOLDS}`)], table([
    ["Made (UTC)", ({ created_at }) => instant(created_at), "k"],
    ["State", ({ hold }) => tag(hold?.state ?? "–", hold?.state === "open" ? "good" : "")],
    ["Amount", ({ amount, currency }) => money(amount, currency), "n"],
    ["Still held", ({ hold, currency }) => money(hold?.remaining, currency), "n"],
    ["From", ({ source }) => accountLink(ledger, source)],
    ["To", ({ destination }) => accountLink(ledger, destination)],
    ["Expires (UTC)", ({ hold }) => instant(hold?.expires_at), "k"],
    ["Transfer", ({ id }) => transferLink(ledger, id, shortId(id)), "k"],
  ], now, "No holds."));
}

export async function account(place, ledger, name) {
  const found = await api(ledger.id, "GET", `/v1/accounts/${encodeURIComponent(name)}`);
  const lines = statement(ledger, found);
  await lines.first;
  place.replaceChildren(summary(found), lines.element, await holds(ledger, found));
}
