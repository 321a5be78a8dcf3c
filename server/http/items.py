"""The items of a bulk of transfers: decodes them into requests, and turns their outcomes into the answer."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec import UNSET

from server.http import models, render
from server.http.call import Call
from server.http.handlers.transfers import check_shape, not_bound, requested, requested_child, transfer_id
from server.http.idempotency import fingerprint, is_plain_key, parse_key
from server.http.problems import KINDS, Problem, invalid
from server.http.reply import Reply
from server.http.wire.body import shape_problem
from server.ledger.narrowed import seen
from server.ledger.transfers import Bound, Outcome, TransferRequest, Unbound, resolve_known

_Asked = TransferRequest | Problem
# The functions that post items, and that refuse items.
Post = Callable[[Sequence[TransferRequest]], Awaitable[Sequence[Outcome | Problem]]]
Refuse = Callable[[Sequence[TransferRequest]], Awaitable[Sequence[Problem | None]]]


async def answer_bulk(call: Call, body: models.TransferBulk, refuse: Refuse, post: Post) -> Reply:
    """
    Post the items of a bulk and return the reply with the result of each.

    Args:
        refuse: Gets the items of an atomic set and returns the problems of those to refuse before any is posted.

        post: Gets the well-formed items in order, with distinct keys. It is not called for an atomic set with a bad
            item.
    """
    whole = fingerprint(call.method, call.path, call.body) if body.atomic else None
    asked = _read_items(call, body.transfers, whole)
    repeated = _find_repeated(asked)
    if body.atomic:
        for number in repeated:
            pointer = f"/transfers/{number}/key"
            asked[number] = invalid(pointer, "The key is used twice in one atomic set.")
        asked = await _refused(asked, refuse)
        if any(isinstance(item, Problem) for item in asked):
            return _reply(call, [_unposted(item) for item in asked])
    requests = [
        item for number, item in enumerate(asked) if isinstance(item, TransferRequest) and number not in repeated
    ]
    outcomes = await post(requests) if requests else []
    by_key = {r.key: outcome for r, outcome in zip(requests, outcomes, strict=True)}
    return _reply(call, [_judge(call, number, item, by_key, number in repeated) for number, item in enumerate(asked)])


async def _refused(asked: list[_Asked], refuse: Refuse) -> list[_Asked]:
    """Return the items of an atomic set, with the refused ones replaced by their problems."""
    requests = [item for item in asked if isinstance(item, TransferRequest)]
    problems = iter(await refuse(requests))
    return [item if isinstance(item, Problem) else next(problems) or item for item in asked]


class _Texts(dict[str, str]):
    """Texts that match a pattern. The texts of a bulk repeat: each is matched once and stored once."""

    def __init__(self, match: Callable[[str], object]) -> None:
        self._match = match

    def __missing__(self, text: str) -> str:
        if self._match(text) is None:
            raise ValueError
        self[text] = text
        return text


def _read_items(call: Call, items: list[msgspec.Raw], whole: bytes | None) -> list[_Asked]:
    """
    Return the transfer that each item requests, or the problem of the item.

    An item of an atomic set has the fingerprint of the whole request; any other item has that of its own bytes. This
    version compares items by meaning. The fingerprints are for workers of the previous version, which compare them and
    run beside these workers during a deploy.
    """
    head = f"{call.method} {call.path}\n".encode()
    decode = models.transfer_item_unmatched.decode
    accounts, currencies, keys = (_Texts(match) for match in (models.is_account_id, models.is_currency, is_plain_key))
    asked: list[_Asked] = []
    for number, raw in enumerate(items):
        digest = whole or hashlib.sha256(head + raw).digest()
        try:
            item = decode(raw)
            item.source, item.destination = accounts[item.source], accounts[item.destination]
            item.currency = currencies[item.currency]
            check_shape(item)
            asked.append(requested(call, keys[item.key], digest, item, f"/transfers/{number}"))
        except (ValueError, Problem):
            # Decode the item again, strictly: that finds the member that is wrong, in the order of checks.
            asked.append(_read_item(call, f"/transfers/{number}", raw, digest))
    return asked


def _read_item(call: Call, prefix: str, raw: msgspec.Raw, digest: bytes) -> _Asked:
    """
    Return the transfer that an item requests, or the problem of the item.

    Args:
        prefix: The JSON pointer of the item.

        digest: The fingerprint of the item.
    """
    try:
        if _is_child(raw):
            child = models.child_item.decode(raw)
            return _child(call, child, _item_key(child.key, prefix), digest, prefix)
        item = models.transfer_item.decode(raw)
        check_shape(item, prefix)
        return requested(call, _item_key(item.key, prefix), digest, item, prefix)
    except msgspec.ValidationError as error:
        problem = shape_problem(error, prefix, text=raw)
        return _key_problem(call, raw, prefix) if problem.errors[0][0] == f"{prefix}/key" else problem
    except ValueError:
        return invalid(prefix, "The item is not JSON in UTF-8.")
    except Problem as problem:
        return problem


def _is_child(raw: msgspec.Raw) -> bool:
    """Return whether an item has a `kind`, and so is a capture, void or reversal of a parent."""
    return models.item_kind.decode(raw).kind is not UNSET


def _child(
    call: Call, item: models.ChildItem | models.ChildItemAnyKey, key: str, digest: bytes, prefix: str
) -> TransferRequest:
    """
    Return the capture, void or reversal that an item requests under a key.

    Raises:
        Problem: The members of the item do not go together.
    """
    if (item.parent is UNSET) == (item.parent_key is UNSET):
        raise invalid(f"{prefix}/parent", "Give either parent or parent_key.")
    if item.amount is not UNSET and item.kind == "void":
        raise invalid(f"{prefix}/amount", "A void releases all that remains: leave out amount.")
    if item.release_rest is not UNSET and item.kind != "capture":
        raise invalid(f"{prefix}/release_rest", "Only a capture takes release_rest.")
    parent = parent_key = None
    if item.parent is not UNSET:
        parent = transfer_id(item.parent)
        if parent is None:
            raise invalid(f"{prefix}/parent", "This is not the id of a transfer.")
    elif item.parent_key is not UNSET:
        try:
            parent_key = parse_key(item.parent_key)
        except Problem:
            raise invalid(f"{prefix}/parent_key", "This is not an idempotency key.") from None
    release_rest = True if item.release_rest is UNSET else item.release_rest
    return requested_child(
        call,
        key,
        digest,
        item.kind,
        parent=parent,
        parent_key=parent_key,
        amount=None if item.amount is UNSET else item.amount,
        release_rest=release_rest if item.kind == "capture" else None,
    )


def _item_key(text: str, prefix: str) -> str:
    """Return the key in an item's text, raw or quoted, as in the header."""
    try:
        return parse_key(text)
    except Problem as error:
        raise Problem(error.code, errors=[(f"{prefix}/key", error.kind.title + ".")]) from None


def _key_problem(call: Call, raw: msgspec.Raw, prefix: str) -> Problem:
    """Return the problem of an item without a valid key: its shape if that is wrong, as in a single transfer."""
    try:
        item: models.TransferItemAnyKey | models.ChildItemAnyKey
        if _is_child(raw):
            item = models.child_item_any_key.decode(raw)
            _child(call, item, "", b"", prefix)
        else:
            item = models.transfer_item_any_key.decode(raw)
            check_shape(item, prefix)
    except msgspec.ValidationError as error:
        return shape_problem(error, prefix, text=raw)
    except Problem as problem:
        return problem
    code = "idempotency_key_missing" if item.key is UNSET else "idempotency_key_invalid"
    return Problem(code, errors=[(f"{prefix}/key", KINDS[code].title + ".")])


def _find_repeated(asked: list[_Asked]) -> set[int]:
    """Return the positions of items that have the key of an earlier item."""
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
    """Return the problem of an item of an atomic set that was not posted because some item of the set is wrong."""
    if isinstance(item, Problem):
        return item
    return Problem("linked_failed", "Another transfer of the set is not valid; nothing was done.", retry="same_key")


def _judge(
    call: Call, number: int, item: _Asked, by_key: dict[str, Outcome | Problem], repeated: bool
) -> Bound | Problem:
    if isinstance(item, Problem):
        return item
    outcome = by_key[item.key]
    if repeated:
        if isinstance(outcome, Unbound | Problem):
            # The first item with this key was not bound, and this one was not tried.
            return Problem("idempotency_key_in_use", "Another item of the bulk has this key; nothing was done.")
        # A later item with the same key is a retry, or another request under the key.
        outcome = resolve_known(item, outcome.attempt)
    if isinstance(outcome, Bound | Problem):
        return outcome
    return not_bound(call, outcome, f"/transfers/{number}")


def _reply(call: Call, results: list[Bound | Problem] | list[Problem]) -> Reply:
    return Reply(200, render.results([item_result(call, result) for result in results]))


def item_result(call: Call, result: Bound | Problem) -> bytes:
    """Return the result of an item as JSON."""
    if isinstance(result, Bound) and seen(result.attempt, call.key.accounts) is not result.attempt:
        # In a preview, the parent may have been bound after its accounts were checked.
        result = Problem("transfer_not_found", retry="never")
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
