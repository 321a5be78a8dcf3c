"""Handlers of transfers: post a transfer, and find it by its id or its key."""

from http import HTTPStatus
from uuid import UUID

from server.gate.gate import LookUp
from server.http import models, render
from server.http.call import Call
from server.http.headers import REPLAYED
from server.http.idempotency import fingerprint, parse_key
from server.http.instants import read_instant
from server.http.narrowing import Narrowing
from server.http.path import path_text
from server.http.problems import Problem, invalid
from server.http.query import Query
from server.http.reply import JSON, PROBLEM, Reply
from server.ledger.history import History
from server.ledger.ids import new_transfer_id
from server.ledger.narrowed import seen
from server.ledger.posting import KeyInUseError, PostingLane
from server.ledger.transfers import Attempt, Bound, Outcome, Progress, Reused, TransferRequest, Unbound, meaning
from server.store.by_hand import needs_task
from server.store.cache import Replay
from server.store.keyspace import Keyspace
from server.telemetry.tallies import Tallies, Timing

# Seconds after which a caller may ask again about a key that was still in use.
KEY_IN_USE_RETRY_SECONDS = 1


class TransferHandlers:
    """
    Handlers of transfers.

    Args:
        posting: Posts transfers.

        history: Finds posted transfers.

        keyspace: The names of the replays in Redis.

        narrowing: Refuses transfers of accounts that a key does not see.

        tallies: Counts replays and refusals.
    """

    def __init__(
        self, posting: PostingLane, history: History, keyspace: Keyspace, narrowing: Narrowing, tallies: Tallies
    ) -> None:
        self._posting = posting
        self._history = history
        self._keyspace = keyspace
        self._narrowing = narrowing
        self._replays = tallies.replays
        self._problems = tallies.problems

    def stored(self, call: Call) -> tuple[LookUp, bytes]:
        """Return what the gate looks up for a transfer: the answer that is stored for its idempotency key."""
        if call.key.accounts is not None:
            # The stored answer may be about accounts that this API key does not see.
            return LookUp.NOTHING, b""
        try:
            key = parse_key(call.idempotency_key)
        except Problem:
            # A later step refuses the key, in the order of checks.
            return LookUp.NOTHING, b""
        return LookUp.REPLAY, self._keyspace.replay(call.ledger_id, key)

    def replay(self, call: Call) -> Reply | None:
        """Return the stored answer if the request repeats the first byte for byte, so that it need not be decoded."""
        call.fingerprint = fingerprint(call.method, call.path, call.body)
        stored = call.decision.replay
        if stored is None or stored.fingerprint != call.fingerprint:
            return None
        self._replays["redis"] += 1
        return _answer(stored, REPLAYED)

    async def create_transfer(self, call: Call, body: models.TransferCreate) -> Reply:
        """Post a transfer or a hold exactly once, however often the request is sent."""
        check_shape(body)
        return await self._post(call, requested(call, parse_key(call.idempotency_key), call.fingerprint, body))

    async def capture_transfer(self, call: Call, body: models.Capture) -> Reply:
        """Move the money that a hold reserves, or a part of it."""
        return await self._post_child(call, "capture", body.amount, body.release_rest)

    async def void_transfer(self, call: Call, _body: models.Void) -> Reply:
        """Release a hold."""
        return await self._post_child(call, "void", None, None)

    async def reverse_transfer(self, call: Call, body: models.Reversal) -> Reply:
        """Move back the money that a transfer or a capture has moved, or a part of it."""
        return await self._post_child(call, "reversal", body.amount, None)

    async def _post_child(self, call: Call, kind: str, amount: int | None, release_rest: bool | None) -> Reply:
        key = parse_key(call.idempotency_key)
        parent = transfer_id(call.names[0])
        if parent is None:
            # No transfer can ever have this id, so the key need not be bound to the refusal.
            raise Problem("transfer_not_found", retry="never")
        request = requested_child(
            call, key, call.fingerprint, kind, parent=parent, amount=amount, release_rest=release_rest
        )
        return await self._post(call, request)

    async def _post(self, call: Call, request: TransferRequest) -> Reply:
        if call.key.accounts is not None:
            await needs_task()
            await self._narrowing.check(call, request)
        stored = call.decision.replay
        # If the request differs, Postgres decides: it can say which fields differ.
        if stored is not None and stored.meaning == meaning(request):
            self._replays["redis"] += 1
            return _answer(stored, REPLAYED)
        try:
            call.timing = Timing()
            outcome = await self._posting.post(call.ledger_id, request, call.timing, call.release_place)
        except KeyInUseError:
            raise in_use() from None
        if not isinstance(outcome, Bound):
            raise not_bound(call, outcome)
        assert outcome.answer is not None, "the lane renders the answers of single requests"
        if outcome.replayed:
            self._replays["postgres"] += 1
        if outcome.attempt.refusal is not None:
            self._problems[outcome.attempt.refusal] += 1
        return _answer(outcome.answer, REPLAYED if outcome.replayed else b"")

    async def get_transfer(self, call: Call, _query: Query) -> Reply:
        """Answer with a transfer and its present state."""
        found = transfer_id(call.names[0])
        now = None if found is None else await self._history.by_id(call.ledger_id, found)
        return _shown(call, now, "transfer_not_found")

    async def get_idempotency_key(self, call: Call, _query: Query) -> Reply:
        """Answer with the transfer that a key is bound to, for callers that lost their answer."""
        try:
            key = parse_key(path_text(call.names[0]))
        except Problem:
            raise Problem("idempotency_key_not_found") from None
        return _shown(call, await self._history.by_key(call.ledger_id, key), "idempotency_key_not_found")


def check_shape(body: models.TransferCreate, prefix: str = "") -> None:
    """
    Refuse a transfer that is wrong whatever the ledger holds.

    Args:
        prefix: The JSON pointer of the body within the request.

    Raises:
        Problem: The transfer is wrong; `errors` points to the member.
    """
    if body.source == body.destination:
        raise invalid(prefix + "/destination", "Source and destination are the same account.")
    if body.expires_in is not None and not body.hold:
        raise invalid(prefix + "/expires_in", "Only a hold expires: leave out expires_in, or set hold to true.")


def requested(call: Call, key: str, digest: bytes, body: models.TransferCreate, prefix: str = "") -> TransferRequest:
    """
    Return the transfer that a well-formed body requests under a key.

    Args:
        prefix: The JSON pointer of the body within the request.

    Raises:
        Problem: `effective_at` is not a valid instant.
    """
    conditions = body.conditions
    effective_at = None
    if body.effective_at is not None:
        try:
            effective_at = read_instant(body.effective_at)
        except ValueError as error:
            raise invalid(prefix + "/effective_at", str(error)) from None
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
        effective_at,
        "hold" if body.hold else None,
        (body.expires_in or models.HOLD_SECONDS_DEFAULT) if body.hold else None,
    )


def requested_child(
    call: Call,
    key: str,
    digest: bytes,
    kind: str,
    *,
    parent: UUID | None = None,
    parent_key: str | None = None,
    amount: int | None = None,
    release_rest: bool | None = None,
) -> TransferRequest:
    """Return the capture, void or reversal that is requested under a key."""
    return TransferRequest(
        key,
        digest,
        new_transfer_id(),
        None,
        None,
        amount,
        None,
        None,
        None,
        "{}",
        None,
        call.request_id,
        kind=kind,
        parent=parent,
        parent_key=parent_key,
        release_rest=release_rest,
    )


def transfer_id(name: str) -> UUID | None:
    """Return *name* as the id of a transfer, or None if it cannot be one."""
    try:
        found = UUID(name)
    except ValueError:
        return None
    # UUID() also accepts braces, prefixes and foreign digits, which no answer ever contains.
    return found if str(found) == name.lower() else None


def in_use() -> Problem:
    """Return the problem of a key whose first request is still unresolved after its deadline."""
    return Problem("idempotency_key_in_use", outcome="unknown", retry_after=KEY_IN_USE_RETRY_SECONDS)


def not_bound(call: Call, outcome: Outcome, prefix: str = "") -> Problem:
    """
    Return the problem of a transfer to which no key was bound.

    Either its instant has not come yet, or its key is bound to another request, or one of these is true of another
    transfer of its atomic set.

    Args:
        prefix: The JSON pointer of the body within the request.
    """
    if isinstance(outcome, Unbound) and outcome.future:
        return invalid(prefix + "/effective_at", "The instant is in the future.")
    if not isinstance(outcome, Reused):
        detail = (
            "Another transfer of the set has a key that is already bound, or an instant in the future. Nothing was "
            "done and this key was not bound."
        )
        return Problem("linked_failed", detail, retry="same_key")
    attempt, fields = outcome
    if seen(attempt, call.key.accounts) is not attempt:
        return Problem("idempotency_key_reused", "The key is bound to another request.")
    return Problem(
        "idempotency_key_reused",
        f"The key is bound to a transfer that differs in: {', '.join(fields)}.",
        members={"fields": list(fields), "transfer_id": str(attempt.id)},
    )


def _shown(call: Call, found: tuple[Attempt, Progress] | None, missing: str) -> Reply:
    """
    Return the reply with an attempt, as far as the key sees it.

    Raises:
        Problem: There is none, or the key sees nothing of it; the code is *missing*.
    """
    attempt = None if found is None else seen(found[0], call.key.accounts)
    if found is None or attempt is None:
        raise Problem(missing)
    return Reply(200, render.transfer_now(attempt, found[1]))


def _answer(stored: Replay, headers: bytes) -> Reply:
    content_type = JSON if stored.status == HTTPStatus.CREATED else PROBLEM
    return Reply(stored.status, stored.body, content_type=content_type, headers=headers)
