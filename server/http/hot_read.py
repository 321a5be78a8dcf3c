"""The read that is asked for most: an account out of the cache, in one function up to the gate and one from there."""

import asyncio

from server.gate.gate import Entry, LookUp
from server.http.accounts import is_account_id
from server.http.admit import full_in, run
from server.http.call import Call
from server.http.parts import Parts
from server.http.reply import clock

_ANSWER = (
    b"HTTP/1.1 200 OK\r\n%b"
    b'ETag: "%d"\r\nCache-Control: private, no-cache\r\n'
    b'RateLimit-Policy: %b\r\nRateLimit: "default";r=%d;t=%d\r\n'
    b"X-Request-Id: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)


def begin(call: Call, parts: Parts) -> "asyncio.Future[Entry] | Entry | None":
    """
    Ask the gate for a plain read with a key that is known, and count it as running.

    Returns:
        What the gate will say; what it would say where that is known to be a refusal, and the request is not running;
        None where there is more to the request, and nothing was done.

    Raises:
        QueueFullError: Too much waits already; it is not running.
    """
    head = call.head
    key = call.key
    if refused := parts.gate.used_up(key):
        return refused
    account_id = call.ids[0]
    if (
        call.query_string
        or head.no_cache
        or head.if_none_match is not None
        or not is_account_id(account_id)
        or parts.cache.invalidation_pending(key.ledger_id, account_id)
    ):
        return None
    return run(call, parts, LookUp.SNAPSHOT, parts.gate.keyspace.snapshot(key.ledger_id, account_id))


def answer(call: Call, parts: Parts, entry: Entry) -> bytes | None:
    """Return all that is sent, and the read is over; None where the snapshot is no answer, and it still runs."""
    snapshot = entry.snapshot
    if snapshot is None or snapshot.version == 0:
        return None
    key = call.key
    parts.running.leave(key)
    parts.self_check.sample(key.ledger_id, call.ids[0], snapshot)
    body = snapshot.body
    return _ANSWER % (
        clock.field(),
        snapshot.version,
        key.policy,
        entry.left,
        full_in(key, entry.left),
        call.request_id.encode(),
        len(body),
        body,
    )
