// The frame of the page: signing in, the views, and the ledger that is chosen.

import * as api from "./api.js";
import { button, field, h, problem } from "./dom.js";
import { events } from "./events.js";
import { find } from "./find.js";
import { keys } from "./keys.js";
import { live } from "./live.js";
import { webhooks } from "./webhooks.js";

// Each shows itself in an element for a ledger, and gets the rest of the address.
const VIEWS = {
  live: ["Live", live],
  find: ["Look up", find],
  events: ["Events", events],
  keys: ["Keys", keys],
  webhooks: ["Webhooks", webhooks],
};
const CHOSEN = "tallystick-console-ledger";

const main = document.getElementById("main");
const views = document.getElementById("views");
const ledger = document.getElementById("ledger");
let known = [];

function signIn(error) {
  views.hidden = document.getElementById("ledger-label").hidden = true;
  const form = h("form", { class: "fields" },
    h("h1", {}, "Console"),
    h("p", { class: "note" }, "It opens with the token that ", h("code", {}, "tallystick serve"), " printed when it started, or that is set as ", h("code", {}, "console_token"), "."),
    error ? problem(error) : null,
    field("Token", "token", { type: "password", required: true }),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "main" }, "Open")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    api.keepToken(new FormData(form).get("token").trim());
    open();
  });
  main.replaceChildren(h("section", { class: "card sign-in" }, form));
  form.querySelector("input").focus();
}

async function readLedgers() {
  known = await api.ledgers();
  const chosen = Number(sessionStorage.getItem(CHOSEN)) || known[0]?.id;
  ledger.replaceChildren(...known.map(({ id, name }) => h("option", { value: id, selected: id === chosen }, name)));
}

function parts() {
  try {
    return location.hash.slice(1).split("/").map(decodeURIComponent);
  } catch {
    // It was cut off, or written by hand.
    return [];
  }
}

async function show() {
  const [name, ...rest] = parts();
  const [title, view] = VIEWS[name] ?? VIEWS.live;
  for (const link of views.children) {
    link.toggleAttribute("aria-current", link.textContent === title);
    if (link.textContent === title) link.setAttribute("aria-current", "page");
  }
  document.title = `${title} · Tallystick console`;
  // An address names its ledger, so that a link to an account opens the right one.
  if (rest[0] && known.some(({ id }) => id === Number(rest[0]))) ledger.value = rest[0];
  document.getElementById("ledger-label").hidden = view === live;
  const shown = h("div", {});
  main.replaceChildren(h("h1", { tabindex: "-1" }, title), shown);
  if (view !== live && !ledger.value) {
    shown.append(h("p", { class: "note" }, "There is no ledger yet: ", h("code", {}, "tallystick keys create --ledger NAME --role admin"), " makes one."));
    return;
  }
  try {
    await view(shown, known.find(({ id }) => id === Number(ledger.value)), rest.slice(1));
  } catch (error) {
    if (error.status !== 401) shown.replaceChildren(problem(error));
  }
}

async function open() {
  try {
    await readLedgers();
  } catch (error) {
    if (error.status === 401) return;
    if (error.status === 429) {
      api.dropToken();
      signIn(error);
      return;
    }
    // Without Postgres there is nothing to look up, and much to see.
  }
  views.replaceChildren(...Object.entries(VIEWS).map(([name, [title]]) => h("a", { href: `#${name}` }, title)));
  views.hidden = false;
  await show();
}

ledger.addEventListener("change", () => {
  sessionStorage.setItem(CHOSEN, ledger.value);
  const [name] = parts();
  // What was looked up is of the other ledger.
  if (parts().length > 1) location.hash = name;
  else show();
});
addEventListener("hashchange", () => {
  if (/^#token=/.test(location.hash)) api.takeToken();
  if (api.hasToken()) show();
});
addEventListener("signed-out", (event) => {
  api.dropToken();
  signIn(event.detail);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

if (api.takeToken()) open();
else signIn();
