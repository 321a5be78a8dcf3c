// A transfer: what was asked, what has become of it, its parent and its children.

import { api } from "./api.js";
import { card, facts, h, table, tag } from "./dom.js";
import { instant, json, money } from "./format.js";
import { accountLink, shortId, transferLink } from "./links.js";

export function childrenOf(ledger, id) {
  return api(ledger.id, "GET", `/transfers/${id}/children`);
}

export function state(found) {
  if (found.problem) return tag(`refused: ${found.problem.code}`, "bad");
  if (found.hold) return tag(`hold ${found.hold.state}`, found.hold.state === "open" ? "good" : "");
  return tag("posted", "good");
}

export function described(ledger, found) {
  const { currency } = found;
  const hasReturned = found.reversed !== "0" && found.reversed !== 0;
  return facts([
    ["Kind", found.kind],
    ["Amount", h("strong", {}, money(found.amount, currency) ?? "all that was left")],
    ["From", accountLink(ledger, found.source)],
    ["To", accountLink(ledger, found.destination)],
    ["Parent", transferLink(ledger, found.parent)],
    ["Captured", found.hold ? money(found.hold.captured, currency) : null],
    ["Still held", found.hold ? `${money(found.hold.remaining, currency)}, until ${instant(found.hold.expires_at)}` : null],
    ["Reversed", hasReturned ? money(found.reversed, currency) : null],
    ["Refused", found.problem ? `${found.problem.title}. ${found.problem.detail}` : null],
    ["Reference", found.reference],
    ["Description", found.description],
    ["Posted (UTC)", instant(found.created_at)],
    ["Counts for", found.effective_at === found.created_at ? null : instant(found.effective_at)],
    ["Balances after", found.source_balance === null ? null : `${money(found.source_balance, currency)} and ${money(found.destination_balance, currency)}`],
    ["Metadata", Object.keys(found.metadata ?? {}).length ? h("pre", {}, json(found.metadata)) : null],
  ]);
}

export async function transfer(place, ledger, name) {
  const found = await api(ledger.id, "GET", `/v1/transfers/${encodeURIComponent(name)}`);
  const children = await childrenOf(ledger, found.id);
  place.replaceChildren(
    card(["Transfer ", h("span", { class: "id" }, found.id), " ", state(found)], described(ledger, found)),
    card(["Children ", h("small", {}, "captures, voids, expiries and reversals")], table([
      ["Posted (UTC)", ({ created_at }) => instant(created_at), "k"],
      ["Kind", ({ kind }) => kind],
      ["Amount", ({ amount, currency }) => money(amount, currency), "n"],
      ["Transfer", ({ id }) => transferLink(ledger, id, shortId(id)), "k"],
    ], children)));
}
