// Requests of the console: each carries the token in a header, so no page of others can send one.

const STORED = "tallystick-console-token";
// Seconds between two attempts to be told again.
const PAUSE_SECONDS = 2;

export class Refusal extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `status ${status}`);
    this.status = status;
    this.code = body.code ?? "";
    this.title = body.title;
  }
}

// The token is handed over in the fragment of the address, which browsers send to nobody. It is taken out at once.
export function takeToken() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (found) keepToken(found[1]);
  if (found) history.replaceState(null, "", location.pathname);
  return hasToken();
}

// A header takes no other signs, and no token has them.
export const keepToken = (token) => sessionStorage.setItem(STORED, token.replace(/[^\x21-\x7e]/g, "?"));
export const dropToken = () => sessionStorage.removeItem(STORED);
export const hasToken = () => sessionStorage.getItem(STORED) !== null;

async function send(method, path, body, signal) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(STORED)}`, Accept: "application/json; amounts=string" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, signal, cache: "no-store", credentials: "omit" };
  const response = await fetch(`/console${path}`, { ...options, body: body === undefined ? undefined : JSON.stringify(body) });
  if (response.ok) return response;
  const refusal = new Refusal(response.status, await response.json().catch(() => ({})));
  if (response.status === 401) dispatchEvent(new CustomEvent("signed-out", { detail: refusal }));
  throw refusal;
}

export async function ask(method, path, body) {
  return (await send(method, path, body)).json();
}

export const ledgers = () => ask("GET", "/ledgers");

// The API of a ledger: its paths begin with /v1.
export function api(ledger, method, path, body) {
  return ask(method, `/ledgers/${ledger}${path}`, body);
}

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

// Server-sent events; `heard` gets the name and the data of each, `lost` is called when the line is down.
export async function follow(path, heard, lost) {
  for (;;) {
    try {
      const response = await send("GET", path);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const found = /^event: (\w+)\ndata: (.*)$/s.exec(event);
          if (found) heard(found[1], JSON.parse(found[2]));
        }
      }
    } catch (error) {
      if (error.status === 401) return;
    }
    lost();
    await new Promise((resolve) => setTimeout(resolve, 1_000 * PAUSE_SECONDS));
  }
}
