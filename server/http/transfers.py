"""Handlers of transfers: posting one, and finding it again."""

from http import HTTPStatus
from uuid import UUID

from server.gate.gate import LookUp
from server.http import models, render
from server.http.call import Call
from server.http.cursors import Position, read_cursor
from server.http.headers import REPLAYED
from server.http.idempotency import fingerprint, parse_key
from server.http.listing import page
from server.http.path import path_text
from server.http.problems import Problem, invalid
from server.http.query import Query, TransfersQuery
from server.http.reply import JSON, PROBLEM, Reply
from server.ledger.history import History
from server.ledger.ids import new_transfer_id
from server.ledger.posting import KeyInUseError, PostingLane
from server.ledger.transfers import Attempt, Bound, Outcome, Reused, TransferRequest, meaning
from server.store.cache import Replay
from server.store.keyspace import Keyspace
from server.telemetry.tallies import Tallies, Timing

# Seconds after which a key that was still in use is worth asking for again.
KEY_IN_USE_RETRY_SECONDS = 1


class TransferHandlers:
    """
    Handlers of transfers.

    Args:
        posting: Posts them.

        history: Finds them again.

        keyspace: Names of replays.

        tallies: Of replays.
    """

    def __init__(self, posting: PostingLane, history: History, keyspace: Keyspace, tallies: Tallies) -> None:
        self._posting = posting
        self._history = history
        self._keyspace = keyspace
        self._replays = tallies.replays

    def stored(self, call: Call) -> tuple[LookUp, bytes]:
        """Return what the gate looks up for a transfer: the answer that its key has been given before."""
        try:
            key = parse_key(call.idempotency_key)
        except Problem:
            # What is wrong with it is said later, in the order of checks.
            return LookUp.NOTHING, b""
        return LookUp.REPLAY, self._keyspace.replay(call.ledger_id, key)

    def replay(self, call: Call) -> Reply | None:
        """Return the stored answer if the request is the first one byte for byte; nothing else of it need be read."""
        call.fingerprint = fingerprint(call.method, call.path, call.body)
        stored = call.decision.replay
        if stored is None or stored.fingerprint != call.fingerprint:
            return None
        self._replays["redis"] += 1
        return _answer(stored, REPLAYED)

    async def create_transfer(self, call: Call, body: models.TransferCreate) -> Reply:
        """Post a transfer, exactly once however often it is sent."""
        check_shape(body)
        request = requested(call, parse_key(call.idempotency_key), call.fingerprint, body)
        stored = call.decision.replay
        # Another request is left to Postgres, which can say what differs.
        if stored is not None and stored.meaning == meaning(request):
            self._replays["redis"] += 1
            return _answer(stored, REPLAYED)
        try:
            call.timing = Timing()
            outcome = await self._posting.post(call.ledger_id, request, call.timing, call.release_place)
        except KeyInUseError:
            raise in_use() from None
        if not isinstance(outcome, Bound):
            raise not_bound(outcome)
        assert outcome.answer is not None, "the lane renders the answers of single requests"
        if outcome.replayed:
            self._replays["postgres"] += 1
        return _answer(outcome.answer, REPLAYED if outcome.replayed else b"")

    async def get_transfer(self, call: Call, _query: Query) -> Reply:
        """Read a transfer and what has become of it since."""
        name = call.names[0]
        try:
            transfer_id = UUID(name)
        except ValueError:
            raise Problem("transfer_not_found") from None
        # UUID() takes braces, prefixes and foreign digits too: names that no answer ever gave.
        if str(transfer_id) != name.lower():
            raise Problem("transfer_not_found")
        attempt = await self._history.by_id(call.ledger_id, transfer_id)
        if attempt is None:
            raise Problem("transfer_not_found")
        return Reply(200, render.transfer_now(attempt))

    async def list_transfers(self, call: Call, query: TransfersQuery) -> Reply:
        """List posted transfers, newest first."""
        attempts: list[Attempt] = await self._history.page(
            call.ledger_id,
            reference=query.reference,
            account=query.account,
            before=None if query.cursor is None else read_cursor(query.cursor, tuple[Position, UUID]),
            limit=query.limit + 1,
        )
        return page(
            attempts, query.limit, render.transfer, lambda attempt: (attempt.created_at, UUID(int=attempt.id.int))
        )

    async def get_idempotency_key(self, call: Call, _query: Query) -> Reply:
        """Read the transfer a key is bound to: for callers who lost their answer."""
        try:
            key = parse_key(path_text(call.names[0]))
        except Problem:
            raise Problem("idempotency_key_not_found") from None
        attempt = await self._history.by_key(call.ledger_id, key)
        if attempt is None:
            raise Problem("idempotency_key_not_found")
        return Reply(200, render.transfer_now(attempt))


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


def in_use() -> Problem:
    """Return the problem of a key whose first request is unresolved past its deadline."""
    return Problem("idempotency_key_in_use", outcome="unknown", retry_after=KEY_IN_USE_RETRY_SECONDS)


def not_bound(outcome: Outcome) -> Problem:
    """Return the problem of a request that found its key bound to another, or its set in such company."""
    if not isinstance(outcome, Reused):
        detail = "Another transfer of the set has a key that is bound; nothing was done and this key was not bound."
        return Problem("linked_failed", detail, retry="same_key")
    attempt, fields = outcome
    return Problem(
        "idempotency_key_reused",
        f"The key is bound to a transfer that differs in: {', '.join(fields)}.",
        members={"fields": list(fields), "transfer_id": str(attempt.id)},
    )


def _answer(stored: Replay, headers: bytes) -> Reply:
    content_type = JSON if stored.status == HTTPStatus.CREATED else PROBLEM
    return Reply(stored.status, stored.body, content_type=content_type, headers=headers)
