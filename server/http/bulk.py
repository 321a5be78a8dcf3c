"""The handler that posts many transfers: each for itself, or all or none."""

import hashlib
from collections.abc import Callable

import msgspec
from msgspec import UNSET

from server.http import models, render
from server.http.body import shape_problem
from server.http.bulk_admission import BulkAdmission
from server.http.call import Call
from server.http.idempotency import fingerprint, is_plain_key, parse_key
from server.http.problems import KINDS, Problem, invalid
from server.http.reply import Reply
from server.http.transfers import check_shape, in_use, not_bound, requested
from server.ledger.limits import BULK_ITEMS_MAX
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
        self._admission = BulkAdmission()

    async def make_room(self, call: Call) -> None:
        """
        Return when there is room for the transfers of a bulk: before its body is decoded, which is most of its work.

        Raises:
            QueueFullError: There was none in time; nothing was done.
            ConnectionError: The caller has gone meanwhile, and nothing has been done.
        """
        items = _count_items(call.body)
        call.room = await self._admission.enter(call.ledger_id, items)
        if call.gone:
            raise ConnectionResetError
        self._posting.check_room(call.ledger_id, items)

    async def create_transfers(self, call: Call, body: models.TransferBulk) -> Reply:
        """Post up to 1,000 transfers in order and say what became of each."""
        whole = fingerprint(call.method, call.path, call.body) if body.atomic else None
        asked = _read_items(call, body.transfers, whole)
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
                    call.ledger_id,
                    requests,
                    atomic=body.atomic,
                    began=None if call.room is None else call.room.began,
                    on_wait=call.release_place,
                )
            except KeyInUseError:
                raise in_use() from None
        by_key = {r.key: outcome for r, outcome in zip(requests, outcomes, strict=True)}
        return _reply(call, [_judge(item, number in repeated, by_key) for number, item in enumerate(asked)])


def _count_items(body: bytes) -> int:
    """
    Return how many items a bulk has, as far as that is seen without decoding it: each has one member `key`.

    Text that reads so too, as of metadata, counts as well, and what is spelled otherwise does not. A bulk then waits a
    little longer or shorter than it might.
    """
    return min(max(body.count(b'"key"'), 1), BULK_ITEMS_MAX)


class _Texts(dict[str, str]):
    """Texts that match, each kept once: those of a bulk repeat, and need no second look and no memory of their own."""

    def __init__(self, match: Callable[[str], object]) -> None:
        self._match = match

    def __missing__(self, text: str) -> str:
        if self._match(text) is None:
            raise ValueError
        self[text] = text
        return text


def _read_items(call: Call, items: list[msgspec.Raw], whole: bytes | None) -> list[_Asked]:
    """
    Return the transfer that each item asks for, or what is wrong with it.

    The fingerprint of an item of an atomic set is that of the whole request, elsewhere that of the item's own bytes.
    An item is told from another by what it means; fingerprints are for workers of the version before, which tell
    by them and run beside these during a deploy.
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
            asked.append(requested(call, keys[item.key], digest, item))
        except (ValueError, Problem):
            # What is wrong with it is said with its place, and in the order of checks.
            asked.append(_read_item(call, f"/transfers/{number}", raw, digest))
    return asked


def _read_item(call: Call, prefix: str, raw: msgspec.Raw, digest: bytes) -> _Asked:
    """
    Return the transfer an item asks for, or what is wrong with it.

    Args:
        prefix: JSON pointer of the item.

        digest: Its fingerprint.
    """
    try:
        item = models.transfer_item.decode(raw)
        check_shape(item, prefix)
        return requested(call, _item_key(item.key, prefix), digest, item)
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
