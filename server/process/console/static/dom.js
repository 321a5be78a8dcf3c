// Elements are made of text alone: nothing that the ledger holds is ever read as HTML.

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), ...children);
}

// Each column is [title, cell(row), class of its cells]; a class n is for numbers.
export function table(columns, rows, empty = "None.") {
  const head = h("tr", {}, columns.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title)));
  const lines = rows.length
    ? rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row) ?? ""))))
    : [h("tr", {}, h("td", { class: "empty", colspan: columns.length }, empty))];
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, head), h("tbody", {}, lines)));
}

// Pairs of a name and what is said of it; those of which nothing is to be said are left out.
export function facts(pairs) {
  const said = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, said.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function tag(text, kind = "") {
  return h("span", { class: `tag ${kind}` }, text);
}

export function button(text, act, attributes = {}) {
  return h("button", { type: "button", ...attributes, onclick: act }, text);
}

// A field of a form with its label.
export function field(label, name, attributes = {}) {
  return h("label", { class: attributes.grow ? "grow" : null }, label, h("input", { name, autocomplete: "off", ...attributes, grow: null }));
}

export function choice(label, name, options, chosen) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("label", {}, label, h("select", { name }, made));
}

export function problem(error) {
  return h("div", { class: "problem", role: "alert" }, h("strong", {}, error.title ?? "That did not work"), ` ${error.message}`);
}

// Ask in a window of its own; `act` gets the form's values, and the window stays open while it fails.
export function ask(title, fields, action, act, kind = "main") {
  const trouble = h("div", {});
  const confirm = h("button", { type: "submit", class: kind }, action);
  const form = h("form", { class: "fields", method: "dialog" }, h("h2", {}, title), fields, trouble,
    h("div", { class: "buttons" }, confirm, button("Cancel", () => dialog.close())));
  const dialog = h("dialog", { "aria-label": title }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    confirm.disabled = true;
    try {
      const shown = await act(Object.fromEntries(new FormData(form)));
      if (shown) form.replaceChildren(h("h2", {}, title), h("div", {}, shown), h("div", { class: "buttons" }, button("Close", () => dialog.close(), { class: "main" })));
      else dialog.close();
    } catch (error) {
      trouble.replaceChildren(problem(error));
      confirm.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
