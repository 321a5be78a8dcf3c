// The feed of a ledger.

import { api, ledgers, query } from "./api.js";
import { button, card, field, h, table } from "./dom.js";
import { instant, json, money } from "./format.js";
import { accountLink, transferLink } from "./links.js";

const PAGE = 50;
const TYPES = [
  "transfer.posted", "transfer.refused", "hold.created", "hold.captured", "hold.voided", "hold.expired",
  "transfer.reversed", "account.created", "account.updated", "account.closed",
];

function subject(ledger, event) {
  const { type, data } = event;
  return type.startsWith("account.") ? accountLink(ledger, data.id ?? data.account?.id) : transferLink(ledger, data.id);
}

function moved(ledger, { data }) {
  if (!data.source) return null;
  return [money(data.amount, data.currency), ", ", accountLink(ledger, data.source), " to ", accountLink(ledger, data.destination)];
}

function shown(ledger, page) {
  return table([
    ["Position", ({ position }) => position, "n"],
    ["Time (UTC)", ({ time }) => instant(time), "k"],
    ["Type", ({ type }) => type, "k"],
    ["Of", (event) => subject(ledger, event)],
    ["What", (event) => moved(ledger, event)],
    ["", (event) => h("details", {}, h("summary", {}, "all"), h("pre", {}, json(event)))],
  ], page.data, "No events here.");
}

export async function events(place, ledger) {
  const newest = (await ledgers()).find(({ id }) => id === ledger.id)?.events ?? 0;
  const types = [["", "all"], ...TYPES.map((type) => [type, type])].map(([value, text]) => h("option", { value }, text));
  const after = field("After position", "after", { type: "number", min: 0, value: Math.max(0, newest - PAGE) });
  const form = h("form", { class: "row card" }, after,
    h("label", {}, "Type", h("select", { name: "type" }, types)),
    field("Account", "account", { grow: true, spellcheck: "false" }),
    h("button", { type: "submit", class: "main" }, "Show"));
  const list = h("div", { "aria-live": "polite" });
  const next = button("Next", () => read(form.elements.after.value));
  const read = async () => {
    const asked = Object.fromEntries(new FormData(form));
    const page = await api(ledger.id, "GET", `/v1/events${query({ ...asked, limit: PAGE })}`);
    // As they are in the feed, the newest first.
    page.data.reverse();
    list.replaceChildren(card([`Events `, h("small", {}, `the newest is ${newest}`)], shown(ledger, page)));
    form.elements.after.value = page.next_after;
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); read(); });
  place.replaceChildren(h("div", { class: "stack" }, form, list, h("p", {}, next)));
  await read();
}
