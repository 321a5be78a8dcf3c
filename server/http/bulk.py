"""The handler that posts many transfers: each for itself, or all or none."""

import hashlib

import msgspec
from msgspec import UNSET

from server.http import models, render
from server.http.body import shape_problem
from server.http.call import Call
from server.http.idempotency import fingerprint, parse_key
from server.http.problems import KINDS, Problem, invalid
from server.http.reply import Reply
from server.http.transfers import check_shape, in_use, not_bound, requested
from server.ledger.posting import KeyInUseError, PostingLane
from server.ledger.transfers import Bound, Outcome, TransferRequest, Unbound, resolve_known

_Asked = TransferRequest | Problem


class BulkHandlers:
    """
    Handlers of bulks of transfers.

    Args:
        posting: Posts them.
    """

    def __init__(self, posting: PostingLane) -> None:
        self._posting = posting

    async def create_transfers(self, call: Call, body: models.TransferBulk) -> Reply:
        """Post up to 1,000 transfers in order and say what became of each."""
        whole = fingerprint(call.method, call.path, call.body) if body.atomic else None
        asked = [_read_item(call, number, raw, whole) for number, raw in enumerate(body.transfers)]
        repeated = _find_repeated(asked)
        if body.atomic:
            for number in repeated:
                pointer = f"/transfers/{number}/key"
                asked[number] = invalid(pointer, "The key is used twice in one atomic set.")
            if any(isinstance(item, Problem) for item in asked):
                return _reply(call, [_unposted(item) for item in asked])
        requests = [
            item for number, item in enumerate(asked) if isinstance(item, TransferRequest) and number not in repeated
        ]
        outcomes: list[Outcome] = []
        if requests:
            try:
                outcomes = await self._posting.post_many(
                    call.ledger_id, requests, atomic=body.atomic, on_wait=call.release_place
                )
            except KeyInUseError:
                raise in_use() from None
        by_key = {r.key: outcome for r, outcome in zip(requests, outcomes, strict=True)}
        return _reply(call, [_judge(item, number in repeated, by_key) for number, item in enumerate(asked)])


def _read_item(call: Call, number: int, raw: msgspec.Raw, whole: bytes | None) -> _Asked:
    """
    Return the transfer an item asks for, or what is wrong with it.

    The fingerprint of an item of an atomic set is that of the whole request, elsewhere that of the item's own bytes.
    An item is told from another by what it means; fingerprints are for workers of the version before, which tell
    by them and run beside these during a deploy.
    """
    prefix = f"/transfers/{number}"
    try:
        item = models.transfer_item.decode(raw)
        check_shape(item, prefix)
        digest = whole or hashlib.sha256(f"{call.method} {call.path}\n".encode() + bytes(raw)).digest()
        key = _item_key(item.key, prefix)
        return requested(call, key, digest, item)
    except msgspec.ValidationError as error:
        problem = shape_problem(error, prefix)
        return _key_problem(raw, prefix) if problem.errors[0][0] == f"{prefix}/key" else problem
    except ValueError:
        return invalid(prefix, "The item is not JSON in UTF-8.")
    except Problem as problem:
        return problem


def _item_key(text: str, prefix: str) -> str:
    """Return the key that an item's text names, raw or quoted, as a header's would."""
    try:
        return parse_key(text)
    except Problem as error:
        raise Problem(error.code, errors=[(f"{prefix}/key", error.kind.title + ".")]) from None


def _key_problem(raw: msgspec.Raw, prefix: str) -> Problem:
    """Return what is wrong with an item that has no good key: its shape, or else its key, as with a single transfer."""
    try:
        item = models.transfer_item_any_key.decode(raw)
        check_shape(item, prefix)
    except msgspec.ValidationError as error:
        return shape_problem(error, prefix)
    except Problem as problem:
        return problem
    code = "idempotency_key_missing" if item.key is UNSET else "idempotency_key_invalid"
    return Problem(code, errors=[(f"{prefix}/key", KINDS[code].title + ".")])


def _find_repeated(asked: list[_Asked]) -> set[int]:
    """Return the positions of items whose key an earlier item has."""
    seen: set[str] = set()
    repeated = set()
    for number, item in enumerate(asked):
        if isinstance(item, Problem):
            continue
        if item.key in seen:
            repeated.add(number)
        seen.add(item.key)
    return repeated


def _unposted(item: _Asked) -> Problem:
    """Return what an item of a set is told that was never sent, because an item of it is wrong."""
    if isinstance(item, Problem):
        return item
    return Problem("linked_failed", "Another transfer of the set is not valid; nothing was done.", retry="same_key")


def _judge(item: _Asked, repeated: bool, by_key: dict[str, Outcome]) -> Bound | Problem:
    if isinstance(item, Problem):
        return item
    outcome = by_key[item.key]
    if repeated and not isinstance(outcome, Unbound):
        # A later item of a key is a retry of what the key is bound to, or another request under it.
        outcome = resolve_known(item, outcome.attempt)
    if isinstance(outcome, Bound):
        return outcome
    return not_bound(outcome)


def _reply(call: Call, results: list[Bound | Problem] | list[Problem]) -> Reply:
    return Reply(200, render.results([_item(call, result) for result in results]))


def _item(call: Call, result: Bound | Problem) -> bytes:
    if isinstance(result, Problem):
        return b'{"status":%d,"replayed":false,"problem":%b}' % (
            result.kind.status,
            result.body(call.request_id, write=True),
        )
    attempt = result.attempt
    replayed = b"true" if result.replayed else b"false"
    if attempt.refusal is None:
        return b'{"status":201,"replayed":%b,"transfer":%b}' % (replayed, render.transfer(attempt))
    problem = render.refusal(attempt)
    return b'{"status":%d,"replayed":%b,"problem":%b}' % (
        problem.kind.status,
        replayed,
        problem.body(attempt.refusal_request_id or "", write=True),
    )
