// Pays with types that openapi-typescript has made of the document: what a caller writes, and nothing more.

import createClient from "openapi-fetch";
import type { components, paths } from "./tallystick.js";

type Order = components["schemas"]["TransferCreate"];
type Transfer = components["schemas"]["Transfer"];
type Problem = components["schemas"]["Problem"];

// Times that a transfer is sent.
const ATTEMPTS_MAX = 5;

const { TALLYSTICK_URL, TALLYSTICK_API_KEY } = process.env;
if (!TALLYSTICK_URL || !TALLYSTICK_API_KEY) throw new Error("TALLYSTICK_URL and TALLYSTICK_API_KEY have to be set");
const api = createClient<paths>({
  baseUrl: TALLYSTICK_URL,
  headers: { Authorization: `Bearer ${TALLYSTICK_API_KEY}` },
});

// What became of a transfer, how many answers were lost, and whether the last one was a replay.
interface Paid {
  transfer?: Transfer;
  problem?: Problem;
  lost: number;
  replayed: boolean;
}

// Send a transfer under one key until its answer is known.
async function pay(body: Order, key: string): Promise<Paid> {
  let lost = 0;
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    try {
      const { data, error, response } = await api.POST("/v1/transfers", {
        params: { header: { "Idempotency-Key": key } },
        body,
      });
      const replayed = response.headers.get("Idempotent-Replayed") === "true";
      if (data) return { transfer: data, lost, replayed };
      if (error.retry !== "same_key") return { problem: error, lost, replayed };
    } catch (failure) {
      if (!(failure instanceof TypeError)) throw failure;
      lost++;
    }
  }
  throw new Error("it is not known what became of it");
}

for (const body of [
  { id: "world", currency: "EUR", floor: null },
  { id: "alice", currency: "EUR" },
]) {
  const { error } = await api.POST("/v1/accounts", { body });
  if (error) throw new Error(error.code);
}

const order: Order = { source: "world", destination: "alice", amount: 1250, currency: "EUR", reference: "order-1" };
const first = await pay(order, "order-1");
const again = await pay(order, "order-1");
const { problem } = await pay({ source: "alice", destination: "world", amount: 9999, currency: "EUR" }, "order-2");
const { data: alice } = await api.GET("/v1/accounts/{id}", { params: { path: { id: "alice" } } });

console.log(
  JSON.stringify({
    lost: first.lost,
    replayed: again.replayed,
    ids: [first.transfer?.id, again.transfer?.id],
    problem: [problem?.status, problem?.code, problem?.outcome, problem?.retry],
    balance: alice?.balance,
  }),
);
