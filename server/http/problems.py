"""Problem details (RFC 9457): every kind of refusal, what it means, and what the caller can do."""

import random
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreError

# The fewest and the most seconds after which a caller may retry a request that could not be served: spread, so that
# refused requests do not all come back at once.
RETRY_AFTER_SECONDS: Final = (1, 3)
# Stands for the request's id in a prepared body; no id contains it.
_PLACE: Final = "\x7f"


class Kind(NamedTuple):
    """
    The meaning of a problem code.

    Attributes:
        retry: How to retry a write: with the `same_key`, with a `new_key`, or `never`, because the same request can
            only fail again.

        sentence: The text of a transfer's refusal that is bound to its idempotency key. Do not change it: it is part of
            answers already given, which are replayed for ever.
    """

    status: int
    title: str
    retry: str
    text: str
    sentence: str | None = None


# fmt: off
KINDS: dict[str, Kind] = {
    # The request is wrong, whatever the ledger holds. No key is bound.
    "malformed_request": Kind(400, "The request is not valid HTTP", "never", "The bytes received are not a request this server understands. The connection is closed."),
    "invalid_request": Kind(400, "The request is not valid", "never", "A field, header or parameter is missing, unknown or has a value it cannot have; `errors` points to it. Nothing was done and no idempotency key was bound."),
    "idempotency_key_missing": Kind(400, "An Idempotency-Key is required", "never", "Every transfer needs an Idempotency-Key header, made by the caller and kept until the answer is known. It is what makes a retry safe."),
    "idempotency_key_invalid": Kind(400, "The Idempotency-Key is not valid", "never", "A key is 1 to 255 visible ASCII characters, sent once, raw or as a quoted string."),
    "idempotency_key_not_taken": Kind(400, "No Idempotency-Key is taken here", "never", "The header belongs to one transfer. Here it would be ignored, and a retry be less safe than its sender believes. In a bulk each transfer has a `key` of its own; an account is opened once under its `id`, however often it is asked for; a change of an account is made once with `If-Match`. Send the request without the header."),
    "cost_exceeds_capacity": Kind(400, "The request can never fit the limit", "never", "A bulk costs as many tokens as it has items, and this one has more than the limit holds. Send it in parts."),
    "unauthorized": Kind(401, "The API key is missing or not valid", "same_key", "Send `Authorization: Bearer <api key>` with a key that exists and has not been revoked."),
    "forbidden": Kind(403, "The API key does not allow this", "same_key", "Reading needs the role read, changing needs write, administration needs admin. A key that is narrowed to accounts opens no others, and does nothing that is about the whole ledger. No key lifts its own limits, or makes, extends or rotates one that outlives it."),
    "not_found": Kind(404, "There is nothing here", "never", "No such path, or nothing of that name in this ledger."),
    "method_not_allowed": Kind(405, "The method is not allowed here", "never", "The Allow header lists the methods of this path."),
    "request_timeout": Kind(408, "The request did not arrive whole", "same_key", "A part of the request came, and the rest did not follow within 10 s; the connection is closed. Nothing was done and no idempotency key was bound: send the request again."),
    "body_too_large": Kind(413, "The body is too large", "never", "A body may have 64 KiB, a bulk 1 MiB."),
    "unsupported_media_type": Kind(415, "The body must be JSON", "never", "Send `Content-Type: application/json`, not compressed."),
    # The state of the ledger refuses the request. A transfer's refusal is bound to its key for ever.
    "account_not_found": Kind(404, "The account does not exist", "new_key", "The ledger has no account of that id. A refused transfer stays refused: open the account, then use a new key.", "The {side} account does not exist."),
    "transfer_not_found": Kind(404, "The transfer does not exist", "new_key", "The ledger has no transfer of that id, or under that key.", "There is no transfer to act on."),
    "idempotency_key_not_found": Kind(404, "The key is not bound", "same_key", "No transfer was made or refused under this key: a request with it has not been executed."),
    "webhook_endpoint_not_found": Kind(404, "The webhook endpoint does not exist", "never", "The ledger has no webhook endpoint of that id."),
    "api_key_not_found": Kind(404, "The API key does not exist", "never", "The ledger has no API key of that id."),
    "api_key_ended": Kind(409, "The API key opens nothing any more", "never", "The key is revoked, or has expired. A revoked key never opens anything again: make another. One that has expired opens again once its `expires_at` lies ahead."),
    "webhook_endpoints_full": Kind(409, "The ledger has too many webhook endpoints", "never", "A ledger has up to 50 webhook endpoints. Remove one that is not needed."),
    "webhooks_not_configured": Kind(409, "Webhooks are not set up here", "never", "Secrets of webhook endpoints are kept encrypted, and this server has no key for them, or another one than they were made with: its operator sets `webhook_key`."),
    "account_exists": Kind(409, "The account exists with other fields", "never", "An account of that id exists and differs in the fields named. The id is the key of this request."),
    "currency_mismatch": Kind(409, "The account has another currency", "new_key", "Both accounts of a transfer have the currency of the transfer. Several currencies move as linked transfers of an atomic bulk.", "The {side} account has another currency than {currency}."),
    "account_closed": Kind(409, "The account is closed", "new_key", "A closed account takes part in no transfer.", "The {side} account is closed."),
    "condition_failed": Kind(409, "A condition does not hold", "new_key", "One of the transfer's conditions did not hold at the moment of posting.", "The condition {side} does not hold."),
    "insufficient_funds": Kind(409, "The source has too little available", "new_key", "The transfer would leave the source with less available than its floor.", "The source has too little available for {amount} {currency}."),
    "ceiling_exceeded": Kind(409, "The destination would hold too much", "new_key", "The transfer would lift the destination above its ceiling.", "The destination's ceiling does not allow {amount} {currency} more."),
    "balance_overflow": Kind(409, "The balance would leave the range of 64 bits", "new_key", "Balances are signed 64-bit integers of minor units.", "The balance of the {side} account would leave the range of 64 bits."),
    "hold_not_open": Kind(409, "There is no open hold", "new_key", "What is captured or voided is a hold that is open: not one that was captured, voided or has expired, nor a transfer of another kind.", "The transfer is no hold that is open."),
    "capture_exceeds_hold": Kind(409, "The hold has less left", "new_key", "A capture takes what the hold still reserves, or a part of it.", "The hold reserves less than {amount} {currency}."),
    "reversal_exceeds_transfer": Kind(409, "The transfer has less left to reverse", "new_key", "Transfers and captures are reversed, once or in parts, up to the amount that they moved. Nothing else moved money that could be moved back.", "The transfer has moved less than this that was not moved back."),
    "linked_failed": Kind(409, "Another transfer of the set was refused", "new_key", "An atomic set is posted whole or not at all; the transfer that failed says why. Where `retry` says `same_key`, nothing was tried: an item is wrong, or its key was bound before, and without that item the others may be sent again.", "Another transfer of the atomic set was refused."),
    "limits_conflict": Kind(409, "The floor would lie above the ceiling", "never", "The account holds a limit that the change contradicts."),
    "metadata_full": Kind(409, "The account would hold too much metadata", "never", "An account holds up to 50 metadata keys."),
    "version_not_reached": Kind(409, "The account has not reached that version", "never", "No acknowledged write has given the account the version asked for."),
    "position_not_reached": Kind(409, "The feed has not reached that position", "never", "No event of this ledger has the position asked for, so it was served by another ledger, or before the database was restored from a copy that is older. Which of the events behind it still hold is found out by reading on from an earlier position."),
    "idempotency_key_in_use": Kind(409, "A request with this key is still running", "same_key", "The first request with this key has not been resolved in time. Ask again with the same key."),
    "precondition_failed": Kind(412, "The account has moved on", "never", "If-Match names another version than the account's. Read it again and decide anew."),
    "idempotency_key_reused": Kind(422, "The key is bound to another request", "new_key", "This idempotency key was used for a request that differs in the fields named. Nothing was done. If this is a new payment, give it a new key. Requests are compared by what they mean: spaces, the order of members and defaults that are spelled out make no difference."),
    # The request cannot be served now.
    "quota_exceeded": Kind(429, "A limit is used up", "same_key", "More requests came than a rate allows; `violated-policies` says whose: `default` is the key's, `ledger` that of all keys of its ledger, `authentication` that of failed authentications from one network address, `anonymous` that of other requests without a key from there. Wait as Retry-After says in seconds, or `retry_after_ms` in milliseconds: then there is room. Nothing was done and no idempotency key was bound."),
    "too_many_running": Kind(429, "Too many requests of this key are running", "same_key", "The key has as many requests running as it may. Nothing was done and no idempotency key was bound."),
    "internal_error": Kind(500, "The server failed", "same_key", "An error of the server, logged under the request id. The same request with the same key finds out what happened."),
    "overloaded": Kind(503, "The server is busy", "same_key", "More requests wait than can be answered in time. Nothing was done."),
    "unavailable": Kind(503, "The store cannot be reached", "same_key", "The database could not be used in time. `outcome` says whether something may have been done: where it is `unknown`, of a bulk a part may have been posted. The same request with the same keys finds out; a change of an account without If-Match has none, so read the account first."),
    "not_ready": Kind(503, "The server is not ready", "same_key", "The server is starting, stopping, or refuses to serve on an unsafe configuration; `failures` says why."),
}
# fmt: on


# Problems that have a registered type (draft-ietf-httpapi-ratelimit-headers-10).
TYPES = {
    "quota_exceeded": "https://iana.org/assignments/http-problem-types#quota-exceeded",
    "too_many_running": "https://iana.org/assignments/http-problem-types#quota-exceeded",
}


class Problem(Exception):
    """
    A refusal of a request, raised as an exception.

    Args:
        code: A key of KINDS.

        detail: What is wrong with this request, in a sentence that repeats no secret.

        outcome: On writes: `not_applied`, `refused` or `unknown`.

        retry: On writes: `same_key`, `new_key` or `never`, if it differs from what the code usually means.

        errors: Pairs of JSON pointer and detail, on 400.

        members: Extension members.

        retry_after: Seconds after which the caller may retry.

        headers: Names and values of further header fields.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        outcome: str = "not_applied",
        retry: str | None = None,
        errors: Sequence[tuple[str, str]] = (),
        members: Mapping[str, object] | None = None,
        retry_after: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(code)
        self.code = code
        self.kind = KINDS[code]
        self.detail = detail
        self.outcome = outcome
        self.retry = retry or self.kind.retry
        self.errors = errors
        self.members = members or {}
        self.retry_after = retry_after
        self.headers = headers

    def document(self, request_id: str, *, write: bool) -> dict[str, object]:
        """Return the members of the problem's JSON object; on writes, with `outcome` and `retry`."""
        document: dict[str, object] = {
            "type": TYPES.get(self.code, f"/problems/{self.code}"),
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail or self.kind.text,
            "code": self.code,
            "request_id": request_id,
        }
        if write:
            document["outcome"] = self.outcome
            document["retry"] = self.retry
        if self.errors:
            document["errors"] = [{"pointer": p, "detail": d} for p, d in self.errors]
        document.update(self.members)
        return document

    def body(self, request_id: str, *, write: bool) -> bytes:
        """Return the problem as JSON."""
        return orjson.dumps(self.document(request_id, write=write))


def invalid(pointer: str, detail: str) -> Problem:
    """Return the problem of one wrong part of a request, by its JSON pointer or the name of a header or parameter."""
    return Problem("invalid_request", detail, errors=[(pointer, detail)])


def not_reached(head: int) -> Problem:
    """Return the problem of a position after the newest one of a ledger's feed."""
    return Problem("position_not_reached", f"The newest position of this ledger is {head}.")


def prepared(problem: Problem, *, write: bool) -> tuple[bytes, bytes]:
    """Return the parts of a problem's body before and after the request's id: made once to answer a flood."""
    before, after = Problem.body(problem, _PLACE, write=write).split(_PLACE.encode())
    return before, after


def retry_after_seconds() -> int:
    """Return the seconds, jittered, after which the caller may retry a request that could not be served."""
    first, last = RETRY_AFTER_SECONDS
    return first + int(random.random() * (last + 1 - first))  # noqa: S311 -- jitter, not a secret


def problem_of(error: Exception) -> Problem:
    """Return the problem that answers a request that ended with *error*. All errors become statuses here."""
    match error:
        case Problem():
            return error
        case QueueFullError():
            return Problem("overloaded", retry_after=retry_after_seconds())
        case OutcomeUnknownError():
            return Problem("unavailable", outcome="unknown", retry_after=retry_after_seconds())
        case StoreError():
            return Problem("unavailable", retry_after=retry_after_seconds())
        case _:
            return Problem("internal_error", outcome="unknown")
