// Look-ups: an account, a transfer, or what became of the payment that an idempotency key was used for.

import { account } from "./account.js";
import { choice, field, h } from "./dom.js";
import { payment } from "./payment.js";
import { transfer } from "./transfer.js";

const KINDS = {
  account: ["Account", account],
  transfer: ["Transfer", transfer],
  key: ["Idempotency key", payment],
};

export async function find(place, ledger, [kind = "account", name = ""]) {
  const kinds = Object.entries(KINDS).map(([value, [text]]) => [value, text]);
  const form = h("form", { class: "row card", role: "search" },
    choice("What", "kind", kinds, kind),
    field("Id or key, whole", "name", { value: name, required: true, grow: true, maxlength: 255, spellcheck: "false" }),
    h("button", { type: "submit", class: "main" }, "Look up"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = Object.fromEntries(new FormData(form));
    const address = `#find/${ledger.id}/${asked.kind}/${encodeURIComponent(asked.name.trim())}`;
    if (location.hash === address) dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = address;
  });
  const found = h("div", { class: "stack", "aria-live": "polite" });
  place.replaceChildren(h("div", { class: "stack" }, form, found));
  if (!name) {
    form.elements.name.focus();
    found.append(h("p", { class: "note" }, "A key answers what became of a payment: whether it was posted, and what happened to it since."));
    return;
  }
  await (KINDS[kind] ?? KINDS.account)[1](found, ledger, name);
}
