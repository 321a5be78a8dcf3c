// Links from one look-up to another.

import { h } from "./dom.js";

const to = (ledger, kind, name) => `#find/${ledger.id}/${kind}/${encodeURIComponent(name)}`;

export function accountLink(ledger, id) {
  return id ? h("a", { href: to(ledger, "account", id) }, id) : null;
}

export function transferLink(ledger, id, text = id) {
  return id ? h("a", { href: to(ledger, "transfer", id), class: "id", title: id }, text) : null;
}

// The beginning of an id, for columns; ids of one second differ at their end.
export function shortId(id) {
  return id ? `${id.slice(0, 8)}…${id.slice(-6)}` : null;
}
