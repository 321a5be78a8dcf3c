"""The write that is asked for most: a transfer, in one function up to the gate."""

import asyncio

from server.gate.gate import Entry, LookUp
from server.gate.keys import Role
from server.http.call import Call
from server.http.parts import Parts


def begin(call: Call, parts: Parts) -> "asyncio.Future[Entry] | None":
    """
    Ask the gate for a transfer with a key that is known, and count it as running.

    Returns:
        What the gate will say; None where there is more to the request, and nothing was done.

    Raises:
        Problem: Its headers say one thing twice, or too much; it is not running.
        QueueFullError: Too much waits already; it is not running.
    """
    call.head.check()
    key = parts.authenticator.remembered(call.head.token_name)
    if key is None or key.role < Role.WRITE or call.query_string:
        return None
    idempotency_key = call.peek_idempotency_key()
    if idempotency_key is None or not parts.running.enter(key):
        return None
    call.key = key
    gate = parts.gate
    try:
        return gate.enter(key, 1, LookUp.REPLAY, gate.keyspace.replay(key.ledger_id, idempotency_key))
    except BaseException:
        parts.running.leave(key)
        raise
