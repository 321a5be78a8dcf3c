// How values are shown.

const CURRENCIES = new Set(Intl.supportedValuesOf("currency"));
const grouped = (text) => text.replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");

// Amounts come as strings of minor units, since numbers of JavaScript are too small for some of them.
export function money(amount, currency) {
  if (amount === null || amount === undefined) return null;
  const text = String(amount);
  const sign = text.startsWith("-") ? "\u2212" : "";
  const digits = sign ? text.slice(1) : text;
  if (!CURRENCIES.has(currency)) return `${sign}${grouped(digits)}${currency ? ` ${currency}` : ""}`;
  const places = new Intl.NumberFormat("en", { style: "currency", currency }).resolvedOptions().maximumFractionDigits;
  if (!places) return `${sign}${grouped(digits)} ${currency}`;
  const padded = digits.padStart(places + 1, "0");
  return `${sign}${grouped(padded.slice(0, -places))}.${padded.slice(-places)} ${currency}`;
}

export function number(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) >= 100 ? 0 : digits });
}

export function bytes(value) {
  return value === undefined ? "–" : `${number(value / 2 ** 20, 0)} MB`;
}

export function percent(share) {
  return share === null || Number.isNaN(share) ? "–" : `${number(100 * share, 0)}`;
}

export function ago(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5_400) return `${number(seconds / 60, 0)} min`;
  return `${number(seconds / 3_600, seconds < 36_000 ? 1 : 0)} h`;
}

export function clock(seconds) {
  return new Date(1_000 * seconds).toLocaleTimeString("en-GB");
}

// An instant as the API writes it, to the millisecond and in UTC.
export function instant(text) {
  return text ? text.replace("T", " ").replace(/(\.\d{3})\d*Z$/, "$1").replace(/Z$/, "") : null;
}

export function json(value) {
  return JSON.stringify(value, null, 2);
}
