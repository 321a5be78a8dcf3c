// API keys: made, limited and revoked.

import { api, query } from "./api.js";
import { ask, button, card, choice, field, h, table, tag } from "./dom.js";
import { instant } from "./format.js";

const PAGE = 100;
const ROLES = [["read", "read"], ["write", "read and write"], ["admin", "all, keys and webhooks too"]];

// Of a form: an empty field takes the default.
const given = (text) => text.trim() || null;
const whole = (text) => (text.trim() ? Number(text) : null);

function limits({ rate = "", burst = "", concurrency = "" }) {
  return [
    field("Rate: N/s, N/min, N/h or N/day; empty for the default", "rate", { value: rate, placeholder: "default" }),
    field("Burst", "burst", { type: "number", min: 1, value: burst, placeholder: "default" }),
    field("Requests at once in a worker", "concurrency", { type: "number", min: 1, value: concurrency, placeholder: "default" }),
  ];
}

const asked = (form) => ({ rate: given(form.rate), burst: whole(form.burst), concurrency: whole(form.concurrency) });

function create(ledger, done) {
  const fields = [
    choice("Role", "role", ROLES, "read"),
    field("Description", "description", { maxlength: 200 }),
    field("Only accounts that begin with; several separated by commas", "accounts"),
    ...limits({}),
  ];
  ask(`New key of ${ledger.name}`, fields, "Create", async (form) => {
    const accounts = form.accounts.split(",").map((text) => text.trim()).filter(Boolean);
    const body = { role: form.role, description: given(form.description), accounts: accounts.length ? accounts : null, ...asked(form) };
    const made = await api(ledger.id, "POST", "/v1/api-keys", body);
    done();
    return [h("p", {}, "This is the token. It is shown once."), h("pre", {}, h("code", {}, made.token))];
  });
}

function limit(ledger, key, done) {
  ask(`Limits of ${key.id}`, limits(key), "Change", async (form) => {
    await api(ledger.id, "PATCH", `/v1/api-keys/${key.id}`, asked(form));
    done();
  });
}

function revoke(ledger, key, done) {
  const said = h("p", {}, "Its callers are refused within five seconds, for ever.");
  ask(`Revoke ${key.id}?`, [said], "Revoke", async () => {
    await api(ledger.id, "DELETE", `/v1/api-keys/${key.id}`);
    done();
  }, "bad");
}

function state(key) {
  if (key.revoked_at) return tag("revoked", "bad");
  if (key.expires_at && new Date(key.expires_at) <= new Date()) return tag("expired", "warn");
  return tag("active", "good");
}

function shown(ledger, rows, done) {
  return table([
    ["Key", ({ id }) => h("span", { class: "id" }, id), "k"],
    ["Role", ({ role }) => role],
    ["State", state],
    ["Description", ({ description }) => description],
    ["Accounts", ({ accounts }) => accounts?.join(", ") ?? "all"],
    ["Rate", ({ rate }) => rate ?? "default", "n"],
    ["Burst", ({ burst }) => burst ?? "default", "n"],
    ["At once", ({ concurrency }) => concurrency ?? "default", "n"],
    ["Made (UTC)", ({ created_at }) => instant(created_at)?.slice(0, 16), "k"],
    ["Used (UTC)", ({ last_used_at }) => instant(last_used_at)?.slice(0, 16) ?? "never", "k"],
    ["Actions", (key) => (key.revoked_at ? null : h("div", { class: "buttons" },
      button("Limit", () => limit(ledger, key, done), { class: "small", "aria-label": `Limit key ${key.id}` }),
      button("Revoke", () => revoke(ledger, key, done), { class: "small bad", "aria-label": `Revoke key ${key.id}` })))],
  ], rows, "No keys.");
}

export async function keys(place, ledger) {
  const list = h("div", { "aria-live": "polite" });
  const read = async () => {
    const rows = [];
    let cursor;
    do {
      const page = await api(ledger.id, "GET", `/v1/api-keys${query({ limit: PAGE, cursor })}`);
      rows.push(...page.data);
      cursor = page.next_cursor;
    } while (cursor && rows.length < 10 * PAGE);
    list.replaceChildren(card(`Keys of ${ledger.name}`, shown(ledger, rows, read)));
  };
  place.replaceChildren(h("div", { class: "stack" }, h("p", {}, button("New key", () => create(ledger, read), { class: "main" })), list));
  await read();
}
