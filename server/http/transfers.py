"""Routes of transfers: posting one, and finding it again."""

import hashlib
from http import HTTPStatus
from uuid import UUID

from server.gate.gate import Entry, LookUp
from server.http import models, render
from server.http.admit import admit
from server.http.body import decode, read_body
from server.http.call import Call, page_limit, parse_key, path_text
from server.http.cursors import Instant, read_cursor
from server.http.limits import BODY_MAX_BYTES
from server.http.listing import page
from server.http.parts import Parts
from server.http.problems import Problem, invalid
from server.http.reply import JSON, PROBLEM, Reply
from server.ledger.ids import new_transfer_id
from server.ledger.limits import REFERENCE_LENGTH_MAX
from server.ledger.posting import KeyInUseError
from server.ledger.transfers import Attempt, Bound, Outcome, Reused, TransferRequest
from server.store.cache import Replay
from server.telemetry.tallies import Timing

REPLAYED = b"Idempotent-Replayed: true\r\n"
# Seconds after which a key that was still in use is worth asking for again.
KEY_IN_USE_RETRY_SECONDS = 1


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """Return what makes a request the same request: SHA-256 over method, path and body as received."""
    digest = hashlib.sha256(f"{method} {path}\n".encode())
    digest.update(body)
    return digest.digest()


def check_shape(body: models.TransferCreate, prefix: str = "") -> None:
    """
    Refuse a transfer that is wrong whatever the ledger holds.

    Args:
        prefix: JSON pointer of the body within the request.

    Raises:
        Problem: What is wrong, and where.
    """
    if body.source == body.destination:
        raise invalid(prefix + "/destination", "Source and destination are the same account.")
    if body.hold:
        raise invalid(prefix + "/hold", "Holds are not offered yet.")
    if body.expires_in is not None:
        raise invalid(prefix + "/expires_in", "Only a hold expires.")


def requested(call: Call, key: str, digest: bytes, body: models.TransferCreate) -> TransferRequest:
    """Return the transfer that a well-formed body asks for under a key."""
    conditions = body.conditions
    return TransferRequest(
        key,
        digest,
        new_transfer_id(),
        body.source,
        body.destination,
        body.amount,
        body.currency,
        body.reference,
        body.description,
        models.canonical(body.metadata),
        None if conditions is None else models.canonical(conditions),
        call.request_id,
        None if conditions is None else conditions.source_version,
        None if conditions is None else conditions.destination_version,
        None if conditions is None else conditions.source_available_gte,
    )


async def create_transfer(call: Call, parts: Parts) -> Reply:
    """Post a transfer, exactly once however often it is sent."""
    key = call.peek_idempotency_key()
    if key is None:
        entry = await admit(call, parts)
    else:
        entry = await admit(call, parts, 1, LookUp.REPLAY, parts.gate.keyspace.replay(call.ledger_id, key))
    return await create_admitted(call, parts, entry)


async def create_admitted(call: Call, parts: Parts, entry: Entry) -> Reply:
    """Post a transfer that the gate has let in; *entry* may hold the answer to it."""
    body = await read_body(call, BODY_MAX_BYTES)
    digest = fingerprint(call.method, call.path, body)
    # Anything but the very same request is left to Postgres, which can say what differs.
    if entry.replay is not None and entry.replay.fingerprint == digest:
        parts.tallies.replays["redis"] += 1
        return _answer(entry.replay, REPLAYED)
    transfer = decode(models.transfer_create, body)
    check_shape(transfer)
    request = requested(call, call.idempotency_key(), digest, transfer)
    try:
        call.timing = Timing()
        outcome = await parts.posting.post(call.ledger_id, request, call.timing, call.give_place_away)
    except KeyInUseError:
        raise in_use() from None
    if isinstance(outcome, Bound):
        assert outcome.answer is not None, "the lane renders the answers of single requests"
        if outcome.replayed:
            parts.tallies.replays["postgres"] += 1
        return _answer(outcome.answer, REPLAYED if outcome.replayed else b"")
    raise not_bound(outcome)


def content_type(replay: Replay) -> bytes:
    """Return the media type of a stored answer."""
    return JSON if replay.status == HTTPStatus.CREATED else PROBLEM


def _answer(replay: Replay, headers: bytes) -> Reply:
    return Reply(replay.status, replay.body, content_type=content_type(replay), headers=headers)


def in_use() -> Problem:
    """Return the problem of a key whose first request is unresolved past its deadline."""
    return Problem(
        "idempotency_key_in_use", outcome="unknown", headers=[("Retry-After", str(KEY_IN_USE_RETRY_SECONDS))]
    )


def not_bound(outcome: Outcome) -> Problem:
    """Return the problem of a request that found its key bound to another, or its set in such company."""
    if not isinstance(outcome, Reused):
        detail = "Another transfer of the set reuses a key; nothing was done and this key was not bound."
        return Problem("linked_failed", detail, retry="same_key")
    attempt, fields = outcome
    retry = None
    if fields:
        detail = f"The key is bound to a transfer that differs in: {', '.join(fields)}."
    else:
        detail = "The key is bound to the same transfer, sent to another path or written in other bytes."
        # Under a new key what has been posted would move money twice; what was refused may be tried anew.
        retry = "never" if attempt.refusal is None else None
    return Problem(
        "idempotency_key_reused",
        detail,
        retry=retry,
        members={"fields": list(fields), "transfer_id": str(attempt.id)},
    )


async def get_transfer(call: Call, parts: Parts) -> Reply:
    """Read a transfer and what has become of it since."""
    call.query()
    try:
        transfer_id = UUID(call.ids[0])
    except ValueError:
        raise Problem("transfer_not_found") from None
    # UUID() takes braces, prefixes and foreign digits too: names that no answer ever gave.
    if str(transfer_id) != call.ids[0].lower():
        raise Problem("transfer_not_found")
    attempt = await parts.history.by_id(call.ledger_id, transfer_id)
    if attempt is None:
        raise Problem("transfer_not_found")
    return Reply(200, render.transfer_now(attempt))


async def list_transfers(call: Call, parts: Parts) -> Reply:
    """List posted transfers, newest first."""
    parameters = call.query("reference", "account", "limit", "cursor")
    limit = page_limit(parameters)
    if len(parameters.get("reference", "")) > REFERENCE_LENGTH_MAX:
        raise invalid("reference", f"A reference has up to {REFERENCE_LENGTH_MAX} characters.")
    attempts: list[Attempt] = await parts.history.page(
        call.ledger_id,
        reference=parameters.get("reference"),
        account=parameters.get("account"),
        before=read_cursor(parameters["cursor"], tuple[Instant, UUID]) if "cursor" in parameters else None,
        limit=limit + 1,
    )
    return page(attempts, limit, render.transfer, lambda attempt: (attempt.created_at, UUID(int=attempt.id.int)))


async def get_idempotency_key(call: Call, parts: Parts) -> Reply:
    """Read the transfer a key is bound to: for callers who lost their answer."""
    call.query()
    key = path_text(call.ids[0])
    attempt = None
    try:
        attempt = await parts.history.by_key(call.ledger_id, parse_key(key))
    except Problem:
        raise Problem("idempotency_key_not_found") from None
    if attempt is None:
        raise Problem("idempotency_key_not_found")
    return Reply(200, render.transfer_now(attempt))
