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
    "malformed_request": Kind(400, "The request is not valid HTTP", "never", "The bytes received are not a request that this server understands. The connection is closed."),
    "invalid_request": Kind(400, "The request is not valid", "never", "A field, header or parameter is missing, unknown or has a value that is not allowed; `errors` points to it. Nothing was done and no idempotency key was bound."),
    "idempotency_key_missing": Kind(400, "An Idempotency-Key is required", "never", "Every transfer needs an Idempotency-Key header. It makes a retry safe: make one for each transfer, and keep it until the answer is known."),
    "idempotency_key_invalid": Kind(400, "The Idempotency-Key is not valid", "never", "A key is 1 to 255 visible ASCII characters, sent once, raw or as a quoted string."),
    "idempotency_key_not_taken": Kind(400, "No Idempotency-Key is taken here", "never", "Idempotency keys are for single transfers. If the header were ignored here, a retry would be less safe than its sender believes. In a bulk, each transfer has its own `key`. An account is opened once under its `id`, however often it is requested. With `If-Match`, a change of an account is made once. Send the request without the header."),
    "cost_exceeds_capacity": Kind(400, "The request can never fit the limit", "never", "A bulk costs one token for each item, and this one costs more tokens than the limit can hold. Send it in parts."),
    "unauthorized": Kind(401, "The API key is missing or not valid", "same_key", "Send `Authorization: Bearer <api key>` with a key that exists and has not been revoked."),
    "forbidden": Kind(403, "The API key does not allow this", "same_key", "Reading needs the role read, changing needs write, and administration needs admin. A key that is narrowed to accounts can open no other accounts, and can do nothing that concerns the whole ledger. No key can raise its own limits, or make, extend or rotate a key that outlives it."),
    "not_found": Kind(404, "There is nothing here", "never", "The path does not exist, or the ledger has nothing with that name."),
    "method_not_allowed": Kind(405, "The method is not allowed here", "never", "The Allow header lists the methods of this path."),
    "request_timeout": Kind(408, "The request did not arrive whole", "same_key", "Part of the request arrived, but the rest did not follow within 10 s. The connection is closed. Nothing was done and no idempotency key was bound: send the request again."),
    "body_too_large": Kind(413, "The body is too large", "never", "A body may have up to 64 KiB, and the body of a bulk up to 1 MiB."),
    "unsupported_media_type": Kind(415, "The body must be JSON", "never", "Send the body as `Content-Type: application/json`, uncompressed."),
    # The state of the ledger refuses the request. A transfer's refusal is bound to its key for ever.
    "account_not_found": Kind(404, "The account does not exist", "new_key", "The ledger has no account with that id. A refused transfer stays refused: open the account, then use a new key.", "The {side} account does not exist."),
    "transfer_not_found": Kind(404, "The transfer does not exist", "new_key", "The ledger has no transfer with that id or key.", "There is no transfer to act on."),
    "idempotency_key_not_found": Kind(404, "The key is not bound", "same_key", "No transfer was posted or refused with this key: no request with it has been executed so far."),
    "webhook_endpoint_not_found": Kind(404, "The webhook endpoint does not exist", "never", "The ledger has no webhook endpoint with that id."),
    "api_key_not_found": Kind(404, "The API key does not exist", "never", "The ledger has no API key with that id."),
    "api_key_ended": Kind(409, "The API key opens nothing any more", "never", "The key is revoked, or has expired. A revoked key never works again: make another. An expired key works again once its `expires_at` is set to an instant in the future."),
    "api_keys_full": Kind(409, "The ledger has too many API keys", "never", "A ledger can have up to 10,000 API keys that are not revoked. Revoke those that are no longer needed."),
    "webhook_endpoints_full": Kind(409, "The ledger has too many webhook endpoints", "never", "A ledger can have up to 50 webhook endpoints. Delete one that is no longer needed."),
    "webhooks_not_configured": Kind(409, "Webhooks are not set up here", "never", "Secrets of webhook endpoints are stored encrypted. This server has no key for them, or not the one with which they were encrypted. Its operator must set `webhook_key`."),
    "account_exists": Kind(409, "The account exists with other fields", "never", "An account with that id exists and differs in the fields named. The id serves as the key of this request."),
    "currency_mismatch": Kind(409, "The account has another currency", "new_key", "Both accounts of a transfer must have the currency of the transfer. To move several currencies, send linked transfers in an atomic bulk.", "The {side} account has another currency than {currency}."),
    "account_closed": Kind(409, "The account is closed", "new_key", "No money moves to or from a closed account, and it takes no new holds. An open hold can still be voided.", "The {side} account is closed."),
    "condition_failed": Kind(409, "A condition does not hold", "new_key", "One of the transfer's conditions did not hold at the moment of posting.", "The condition {side} does not hold."),
    "insufficient_funds": Kind(409, "The source has too little available", "new_key", "The transfer would leave the source with less available than its floor.", "The source has too little available for {amount} {currency}."),
    "ceiling_exceeded": Kind(409, "The destination would hold too much", "new_key", "The transfer would raise the destination above its ceiling.", "The destination's ceiling does not allow {amount} {currency} more."),
    "balance_overflow": Kind(409, "The balance would leave the range of 64 bits", "new_key", "Balances are signed 64-bit integers of minor units.", "The balance of the {side} account would leave the range of 64 bits."),
    "hold_not_open": Kind(409, "There is no open hold", "new_key", "Only an open hold can be captured or voided. A hold that was captured or voided or has expired cannot, nor can a transfer of another kind.", "The transfer is no hold that is open."),
    "capture_exceeds_hold": Kind(409, "The hold has less left", "new_key", "A capture can take at most what the hold still reserves.", "The hold reserves less than {amount} {currency}."),
    "reversal_exceeds_transfer": Kind(409, "The transfer has less left to reverse", "new_key", "Transfers and captures can be reversed, at once or in parts, up to the amount that they moved. Other kinds of transfers cannot be reversed.", "The transfer has moved less than this that was not moved back."),
    "linked_failed": Kind(409, "Another transfer of the set was refused", "new_key", "All transfers of an atomic set are posted, or none is; the transfer that failed says why. If `retry` is `same_key`, nothing was tried: an item is not valid, or its key was already bound. Correct or remove that item, and send the others again with the same keys.", "Another transfer of the atomic set was refused."),
    "limits_conflict": Kind(409, "The floor would lie above the ceiling", "never", "The change would put the floor of the account above its ceiling. Change both limits in one request."),
    "metadata_full": Kind(409, "The account would hold too much metadata", "never", "An account can have up to 50 metadata keys. Set those that are not needed to null."),
    "version_not_reached": Kind(409, "The account has not reached that version", "never", "No acknowledged write has brought the account to the requested version."),
    "position_not_reached": Kind(409, "The feed has not reached that position", "never", "This ledger has no event at the requested position. The position comes from another ledger, or from before the database was restored from an older copy. Read on from an earlier position to find out which events still exist."),
    "idempotency_key_in_use": Kind(409, "A request with this key is still running", "same_key", "The first request with this key did not finish in time. Send the request again with the same key."),
    "precondition_failed": Kind(412, "The account has moved on", "never", "The account no longer has the version in If-Match. Read it again, then decide whether to change it."),
    "idempotency_key_reused": Kind(422, "The key is bound to another request", "new_key", "This idempotency key was used for a request that differs in the fields named. Nothing was done. If this is a new payment, give it a new key. Requests are compared by what they mean: spaces, the order of members and defaults that are written out make no difference."),
    # The request cannot be served now.
    "quota_exceeded": Kind(429, "A limit is used up", "same_key", "More requests arrived than a limit allows. `violated-policies` names it: `default` is the limit of the key, `ledger` that of all keys of its ledger, `authentication` that of failed authentications from one network address, and `anonymous` that of other requests without a key from one network address. Wait for the seconds in Retry-After, or for the milliseconds in `retry_after_ms`, then retry. Nothing was done and no idempotency key was bound."),
    "too_many_running": Kind(429, "Too many requests of this key are running", "same_key", "The key has as many requests running as it may have. Nothing was done and no idempotency key was bound."),
    "internal_error": Kind(500, "The server failed", "same_key", "The server has logged the error with the request id. Send the same request with the same key to find out what happened."),
    "overloaded": Kind(503, "The server is busy", "same_key", "More requests are waiting than can be answered in time. Nothing was done: retry later."),
    "unavailable": Kind(503, "The store cannot be reached", "same_key", "The database could not be used in time. `outcome` says whether something may have been done. If it is `unknown`, part of a bulk may have been posted. Send the same request with the same keys to find out. A change of an account without If-Match has no key, so read the account first."),
    "not_ready": Kind(503, "The server is not ready", "same_key", "The server is starting or stopping, or refuses to serve because it would not be safe; `failures` says why."),
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
