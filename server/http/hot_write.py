"""The write that is asked for most: a transfer, in one function up to the gate, and a replay in one from there."""

import asyncio

from server.gate.gate import Entry, LookUp
from server.gate.keys import Role
from server.http.admit import full_in, run
from server.http.call import Call
from server.http.parts import Parts
from server.http.reply import PLAIN_JSON, clock, status_line
from server.http.transfers import REPLAYED, content_type, fingerprint

_ANSWER = (
    b"%b%b%b"
    b'RateLimit-Policy: %b\r\nRateLimit: "default";r=%d;t=%d\r\n'
    b"X-Request-Id: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
)


def begin(call: Call, parts: Parts) -> "asyncio.Future[Entry] | Entry | None":
    """
    Ask the gate for a transfer with a key that is known, and count it as running.

    Returns:
        What the gate will say; what it would say where that is known to be a refusal, and the request is not running;
        None where there is more to the request, and nothing was done.

    Raises:
        QueueFullError: Too much waits already; it is not running.
    """
    key = call.key
    if key.role < Role.WRITE or call.query_string:
        return None
    if refused := parts.gate.used_up(key):
        return refused
    idempotency_key = call.peek_idempotency_key()
    if idempotency_key is None:
        return None
    return run(call, parts, LookUp.REPLAY, parts.gate.keyspace.replay(key.ledger_id, idempotency_key))


def answer(call: Call, parts: Parts, entry: Entry) -> bytes | None:
    """Return all that is sent, and the request is over; None where it is no plain replay, and still runs."""
    replay = entry.replay
    headers = call.headers
    if replay is None or headers.get("Content-Type") != PLAIN_JSON or "Content-Encoding" in headers:
        return None
    body = call.body = call.content.read_nowait()
    if replay.fingerprint != fingerprint(call.method, call.path, body):
        return None
    key = call.key
    parts.running.leave(key)
    parts.tallies.replays["redis"] += 1
    return _ANSWER % (
        status_line(replay.status),
        clock.field(),
        REPLAYED,
        key.policy,
        entry.left,
        full_in(key, entry.left),
        call.request_id.encode(),
        content_type(replay),
        len(replay.body),
        replay.body,
    )
