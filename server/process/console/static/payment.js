// What became of a payment: all that happened under an idempotency key, in order.

import { api } from "./api.js";
import { card, facts, h } from "./dom.js";
import { instant, money } from "./format.js";
import { accountLink, transferLink } from "./links.js";
import { childrenOf, described, state } from "./transfer.js";

// Captures of a hold whose reversals are looked for.
const CAPTURES_MAX = 20;
const DONE = { capture: "Captured", void: "Voided", expiry: "Expired", reversal: "Reversed" };

function step(at, text, detail, kind = "") {
  return h("li", { class: kind }, at ? h("time", {}, `${instant(at)} UTC`) : null, h("p", {}, h("strong", {}, text)), detail ? h("p", { class: "note" }, detail) : null);
}

function began(ledger, found) {
  if (found.problem) {
    return step(found.created_at, `Refused: ${found.problem.code}`, `${found.problem.detail} The key is bound to this answer: a retry gets it again, and another attempt needs another key.`, "bad");
  }
  const what = { hold: "Reserved", transfer: "Posted" }[found.kind] ?? DONE[found.kind];
  return step(found.created_at, `${what}: ${money(found.amount, found.currency)}`, [accountLink(ledger, found.source), " to ", accountLink(ledger, found.destination)]);
}

function outcome(found, children) {
  const { currency, hold } = found;
  if (found.problem) return step(null, "Now: no money moved", "Retries are answered the same, for ever.", "now");
  const returned = children.filter(({ kind }) => kind === "reversal").reduce((sum, { amount }) => sum + BigInt(amount), 0n);
  const left = returned ? `${money(returned, currency)} went back. ` : "";
  if (!hold) return step(null, `Now: ${left ? "posted, and reversed in part or whole" : "the money has moved"}`, `${left}A retry is answered with the first answer and moves nothing.`, "now");
  const captured = `${money(hold.captured, currency)} captured`;
  const rest = hold.state === "open" ? `, ${money(hold.remaining, currency)} held until ${instant(hold.expires_at)} UTC` : "";
  return step(null, `Now: the hold is ${hold.state}`, `${captured}${rest}. ${left}`, "now");
}

// What was posted on top of a transfer, and on top of that: a capture of a hold may be reversed.
async function all(ledger, id) {
  const children = await childrenOf(ledger, id);
  const captures = children.filter(({ kind }) => kind === "capture").slice(0, CAPTURES_MAX);
  const reversals = await Promise.all(captures.map((capture) => childrenOf(ledger, capture.id)));
  return [...children, ...reversals.flat()].sort((one, other) => (one.created_at < other.created_at ? -1 : 1));
}

export async function payment(place, ledger, key) {
  let found;
  try {
    found = await api(ledger.id, "GET", `/v1/idempotency-keys/${encodeURIComponent(key)}`);
  } catch (error) {
    if (error.code !== "idempotency_key_not_found") throw error;
    place.replaceChildren(card("What became of this payment?", h("ol", { class: "timeline" },
      step(null, "Nothing was done under this key", "No request with it was decided. One that is under way is decided within seconds: look again. A caller may send the payment again with the same key.", "now"))));
    return;
  }
  const children = found.problem ? [] : await all(ledger, found.id);
  const steps = children.map((child) => step(child.created_at, `${DONE[child.kind] ?? child.kind}: ${money(child.amount, child.currency) ?? ""}`, transferLink(ledger, child.id)));
  place.replaceChildren(
    card(["What became of this payment? ", state(found)],
      facts([["Key", h("span", { class: "id" }, key)], ["Transfer", transferLink(ledger, found.id)]]),
      h("ol", { class: "timeline" }, began(ledger, found), steps, outcome(found, children))),
    card("The transfer", described(ledger, found)));
}
