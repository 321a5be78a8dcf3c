"""Routes of accounts."""

import re
from datetime import datetime

import msgspec
from msgspec import UNSET

from server.gate.gate import Entry, LookUp
from server.http import models, render
from server.http.admission import retry_after
from server.http.admit import admit, read_bulk
from server.http.body import decode, read_body, shape_problem
from server.http.call import Call, page_limit, whole_number
from server.http.cursors import Instant, Version, read_cursor
from server.http.limits import BODY_MAX_BYTES
from server.http.listing import page
from server.http.parts import Parts
from server.http.preconditions import read_if_match
from server.http.problems import Problem, invalid
from server.http.reply import Reply
from server.ledger.accounts import (
    Account,
    AccountChange,
    AccountNotFoundError,
    AccountRequest,
    LimitsConflictError,
    MetadataFullError,
    Opened,
    VersionChangedError,
)
from server.ledger.history import TIME_MAX, TIME_MIN, FutureInstantError
from server.ledger.limits import ACCOUNT_ID_PATTERN
from server.store.cache import Snapshot
from server.store.errors import OutcomeUnknownError

_REPLAYED = b"Idempotent-Replayed: true\r\n"
is_account_id = re.compile(ACCOUNT_ID_PATTERN.replace("$", r"\Z")).match
_ETAG = re.compile(r'(?:W/)?"([^"]*)"')
# The fraction of a second, and its digits past the microsecond.
_FINE_FRACTION = re.compile(r"(\.[0-9]{6})[0-9]+")
# An offset whose plus sign was not escaped: in a query it stands for a space.
_PLUS_LOST = re.compile(r" [0-9]{2}:?[0-9]{2}\Z")


def _etag(version: int) -> bytes:
    # Callers may keep an answer, but have to ask whether it still holds.
    return b'ETag: "%d"\r\nCache-Control: private, no-cache\r\n' % version


def _requested(body: models.AccountCreate, prefix: str = "") -> AccountRequest:
    _check_limits(body, prefix)
    return AccountRequest(body.id, body.currency, body.floor, body.ceiling, models.canonical(body.metadata))


def _check_limits(body: models.AccountCreate | models.AccountPatch, prefix: str = "") -> None:
    """Refuse limits that contradict each other, whatever the ledger holds."""
    if isinstance(body.floor, int) and isinstance(body.ceiling, int) and body.floor > body.ceiling:
        raise invalid(f"{prefix}/floor", "The floor lies above the ceiling.")


def _difference(request: AccountRequest, account: Account) -> list[str]:
    """Return the names of the fields in which an existing account differs from what was asked for."""
    fields = [name for name in ("currency", "floor", "ceiling") if getattr(request, name) != getattr(account, name)]
    if msgspec.json.decode(request.metadata) != msgspec.json.decode(account.metadata):
        fields.append("metadata")
    return fields


def _exists(fields: list[str]) -> Problem:
    return Problem(
        "account_exists", f"The account exists and differs in: {', '.join(fields)}.", members={"fields": fields}
    )


async def create_account(call: Call, parts: Parts) -> Reply:
    """Open an account, once."""
    request = _requested(decode(models.account_create, await read_body(call, BODY_MAX_BYTES)))
    opened = (await parts.accounts.open_many(call.ledger_id, [request], call.give_place_away))[0]
    if opened.created:
        return Reply(201, render.account(opened.account), headers=_etag(opened.account.version))
    if fields := _difference(request, opened.account):
        raise _exists(fields)
    return Reply(200, render.account(opened.account), headers=_REPLAYED + _etag(opened.account.version))


async def create_accounts(call: Call, parts: Parts) -> Reply:
    """Open up to 1,000 accounts, each for itself."""
    _, body = await read_bulk(call, parts, models.account_bulk, lambda bulk: len(bulk.accounts))
    asked: list[AccountRequest | Problem] = []
    for number, raw in enumerate(body.accounts):
        try:
            asked.append(_requested(models.account_create.decode(raw), f"/accounts/{number}"))
        except msgspec.ValidationError as error:
            asked.append(shape_problem(error, f"/accounts/{number}"))
        except ValueError:
            asked.append(invalid(f"/accounts/{number}", "The item is not JSON in UTF-8."))
        except Problem as problem:
            asked.append(problem)
    requests = [item for item in asked if isinstance(item, AccountRequest)]
    opened = iter(await parts.accounts.open_many(call.ledger_id, requests, call.give_place_away) if requests else [])
    items = [_item(call, item if isinstance(item, Problem) else _judge(item, next(opened))) for item in asked]
    return Reply(200, render.results(items))


def _judge(request: AccountRequest, opened: Opened) -> Opened | Problem:
    if not opened.created and (fields := _difference(request, opened.account)):
        return _exists(fields)
    return opened


def _item(call: Call, result: Opened | Problem) -> bytes:
    if isinstance(result, Problem):
        return b'{"status":%d,"replayed":false,"problem":%b}' % (
            result.kind.status,
            result.body(call.request_id, write=True),
        )
    return b'{"status":%d,"replayed":%b,"account":%b}' % (
        201 if result.created else 200,
        b"false" if result.created else b"true",
        render.account(result.account),
    )


async def get_account(call: Call, parts: Parts) -> Reply:
    """Read an account as it is committed now."""
    account_id = call.ids[0]
    if call.query_string or not is_account_id(account_id):
        await admit(call, parts)
        return await _get_at_version(call, parts)
    if call.head.no_cache or parts.cache.invalidation_pending(call.ledger_id, account_id):
        await admit(call, parts)
        account = await _read(call, parts)
    else:
        name = parts.gate.keyspace.snapshot(call.ledger_id, account_id)
        return await get_admitted(call, parts, await admit(call, parts, 1, LookUp.SNAPSHOT, name))
    return _shown(call, account.version, render.account(account))


async def get_admitted(call: Call, parts: Parts, entry: Entry) -> Reply:
    """Read an account when the gate has let the request in."""
    if entry.snapshot is not None:
        parts.self_check.sample(call.ledger_id, call.ids[0], entry.snapshot)
        return _from_snapshot(call, entry.snapshot)
    account = await _read(call, parts, entry.lease)
    return _shown(call, account.version, render.account(account))


async def _get_at_version(call: Call, parts: Parts) -> Reply:
    """Read an account past the cache, when it has reached the version that the query asks for."""
    parameters = call.query("min_version")
    least = whole_number("min_version", parameters["min_version"]) if "min_version" in parameters else 0
    if not is_account_id(call.ids[0]):
        raise Problem("account_not_found")
    account = await _read(call, parts)
    if account.version < least:
        raise Problem("version_not_reached", f"The account is at version {account.version}.")
    return _shown(call, account.version, render.account(account))


def _shown(call: Call, version: int, body: bytes) -> Reply:
    etag = _etag(version)
    match = call.head.if_none_match
    if match is not None and (match.strip() == "*" or str(version) in _ETAG.findall(match)):
        return Reply(304, b"", headers=etag)
    return Reply(200, body, headers=etag)


def _from_snapshot(call: Call, snapshot: Snapshot) -> Reply:
    if snapshot.version == 0:
        raise Problem("account_not_found")
    return _shown(call, snapshot.version, snapshot.body)


async def _read(call: Call, parts: Parts, lease: bytes | None = None) -> Account:
    try:
        return await parts.accounts.read_leased(call.ledger_id, call.ids[0], lease)
    except AccountNotFoundError:
        raise Problem("account_not_found") from None


async def list_accounts(call: Call, parts: Parts) -> Reply:
    """List the accounts of the ledger by id."""
    parameters = call.query("prefix", "limit", "cursor")
    limit = page_limit(parameters)
    prefix = parameters.get("prefix", "")
    if prefix and not is_account_id(prefix):
        raise invalid("prefix", "No account id begins like this.")
    after = read_cursor(parameters["cursor"], str) if "cursor" in parameters else ""
    if not after.isascii() or "\x00" in after:
        raise invalid("cursor", "This is not a cursor of this list.")
    accounts = await parts.accounts.page(call.ledger_id, prefix, after, limit + 1)
    return page(accounts, limit, render.account, lambda account: account.id)


async def patch_account(call: Call, parts: Parts) -> Reply:
    """Change an account's limits, metadata, or whether it is closed."""
    body = decode(models.account_patch, await read_body(call, BODY_MAX_BYTES))
    _check_limits(body)
    if_versions = read_if_match(call)
    # Elsewhere this refusal is bound to a key; a change has none, and can only fail again.
    missing = Problem("account_not_found", retry="never")
    if not is_account_id(call.ids[0]):
        raise missing
    change = AccountChange(
        set_floor=body.floor is not UNSET,
        floor=None if body.floor is UNSET else body.floor,
        set_ceiling=body.ceiling is not UNSET,
        ceiling=None if body.ceiling is UNSET else body.ceiling,
        closed=None if body.closed is UNSET else body.closed,
        metadata_merge=msgspec.json.encode(body.metadata).decode() if isinstance(body.metadata, dict) else None,
        metadata_clear=body.metadata is None,
    )
    try:
        account = await parts.accounts.change(call.ledger_id, call.ids[0], change, if_versions, call.give_place_away)
    except AccountNotFoundError:
        raise missing from None
    except VersionChangedError:
        raise Problem("precondition_failed") from None
    except LimitsConflictError:
        raise Problem("limits_conflict") from None
    except MetadataFullError:
        raise Problem("metadata_full") from None
    except OutcomeUnknownError:
        if if_versions is not None:
            # Sent again, it is made once: a 412 then says that it was.
            raise
        raise _lost_change() from None
    return Reply(200, render.account(account), headers=_etag(account.version))


def _lost_change() -> Problem:
    """Return the problem of a change that has no key to find out by, and could overwrite another if sent again."""
    detail = "It is not known whether the account was changed: read it, and decide anew."
    headers = [("Retry-After", str(retry_after()))]
    return Problem("unavailable", detail, outcome="unknown", retry="never", headers=headers)


def _time(name: str, text: str) -> datetime:
    """Return the instant that a parameter names in RFC 3339; what is finer than microseconds is cut off."""
    try:
        at = msgspec.convert(_FINE_FRACTION.sub(r"\1", text, count=1), datetime)
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None or not TIME_MIN.year < at.year < TIME_MAX.year:
        expected = "An instant with its offset is expected, as 2026-01-31T12:00:00Z."
        hint = " In a query a plus sign is a space: write it as %2B." if _PLUS_LOST.search(text) else ""
        raise invalid(name, expected + hint)
    return at


async def list_entries(call: Call, parts: Parts) -> Reply:
    """List what transfers did to an account, newest first."""
    parameters = call.query("limit", "cursor", "from", "to")
    limit = page_limit(parameters)
    before = read_cursor(parameters["cursor"], tuple[Instant, Version]) if "cursor" in parameters else None
    since = _time("from", parameters["from"]) if "from" in parameters else TIME_MIN
    until = _time("to", parameters["to"]) if "to" in parameters else TIME_MAX
    if not is_account_id(call.ids[0]):
        raise Problem("account_not_found")
    try:
        entries = await parts.history.entries(
            call.ledger_id,
            call.ids[0],
            since=since,
            until=until,
            before=before,
            limit=limit + 1,
            on_wait=call.give_place_away,
        )
    except AccountNotFoundError:
        raise Problem("account_not_found") from None
    return page(entries, limit, render.entry, lambda entry: (entry.created_at, entry.version))


async def get_balance(call: Call, parts: Parts) -> Reply:
    """Read the balance of an account as it was at an instant."""
    parameters = call.query("at")
    if "at" not in parameters:
        raise invalid("at", "The parameter is required.")
    at = _time("at", parameters["at"])
    if not is_account_id(call.ids[0]):
        raise Problem("account_not_found")
    try:
        past = await parts.history.balance_at(call.ledger_id, call.ids[0], at, call.give_place_away)
    except AccountNotFoundError:
        raise Problem("account_not_found") from None
    except FutureInstantError:
        raise invalid("at", "The instant has not come yet.") from None
    return Reply(200, render.past_balance(call.ids[0], at, past))
