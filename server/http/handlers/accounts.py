"""Handlers of accounts."""

import msgspec
from msgspec import UNSET

from server.gate.gate import LookUp
from server.http import models, render
from server.http.call import Call
from server.http.cursors import Position, Version, read_cursor
from server.http.entity_tags import names_tag, read_if_match
from server.http.headers import REPLAYED, etag
from server.http.listing import page
from server.http.narrowing import check_opening, named_account
from server.http.problems import Problem, invalid, retry_after_seconds
from server.http.query import AccountQuery, AccountsQuery, BalanceQuery, EntriesQuery
from server.http.reply import Reply
from server.http.wire.body import shape_problem
from server.ledger.accounts import (
    Account,
    AccountChange,
    AccountNotFoundError,
    AccountRequest,
    Accounts,
    LimitsConflictError,
    MetadataFullError,
    Opened,
    VersionChangedError,
)
from server.ledger.history import FutureInstantError, History
from server.ledger.narrowed import without_hidden
from server.ledger.self_check import SelfCheck
from server.store.by_hand import needs_task
from server.store.cache import Cache
from server.store.errors import OutcomeUnknownError
from server.store.keyspace import Keyspace


class AccountHandlers:
    """
    Handlers of accounts.

    Args:
        accounts: Opens, reads and changes accounts.

        history: Reads their entries and past balances.

        cache: Knows the accounts whose snapshots must not be used.

        keyspace: The names of the snapshots in Redis.

        self_check: Compares a sample of the answered snapshots with the database.
    """

    def __init__(
        self, accounts: Accounts, history: History, cache: Cache, keyspace: Keyspace, self_check: SelfCheck
    ) -> None:
        self._accounts = accounts
        self._history = history
        self._cache = cache
        self._keyspace = keyspace
        self._self_check = self_check

    async def create_account(self, call: Call, body: models.AccountCreate) -> Reply:
        """Open an account; a repeated request gets the existing one."""
        request = _requested(body)
        check_opening(call, request.id)
        opened = (await self._accounts.open_many(call.ledger_id, [request], call.release_place))[0]
        if opened.created:
            return Reply(201, render.account(opened.account), headers=etag(opened.account.version))
        if fields := _difference(request, opened.account):
            raise _exists(fields)
        return Reply(200, render.account(opened.account), headers=REPLAYED + etag(opened.account.version))

    async def create_accounts(self, call: Call, body: models.AccountBulk) -> Reply:
        """Open up to 1,000 accounts, each independently of the others."""
        asked = [_read_item(call, number, raw) for number, raw in enumerate(body.accounts)]
        requests = [item for item in asked if isinstance(item, AccountRequest)]
        results = await self._accounts.open_many(call.ledger_id, requests, call.release_place) if requests else []
        opened = iter(results)
        items = [_item(call, item if isinstance(item, Problem) else _judge(item, next(opened))) for item in asked]
        return Reply(200, render.results(items))

    def snapshot(self, call: Call) -> tuple[LookUp, bytes]:
        """Return what the gate looks up for a read: the account's snapshot, unless the read needs the database."""
        account_id, accounts = call.names[0], call.key.accounts
        if (
            call.query_string
            or call.head.no_cache
            or (accounts is not None and not accounts.has(account_id))
            or not models.is_account_id(account_id)
            or self._cache.invalidation_pending(call.ledger_id, account_id)
        ):
            return LookUp.NOTHING, b""
        return LookUp.SNAPSHOT, self._keyspace.snapshot(call.ledger_id, account_id)

    async def get_account(self, call: Call, query: AccountQuery) -> Reply:
        """Answer with an account: its snapshot, or its committed state."""
        snapshot = call.decision.snapshot
        if snapshot is not None:
            self._self_check.sample(call.ledger_id, call.names[0], snapshot)
            if snapshot.version == 0:
                raise Problem("account_not_found")
            return _shown(call, snapshot.version, snapshot.body)
        account_id = named_account(call)
        await needs_task()
        try:
            account = await self._accounts.read_leased(call.ledger_id, account_id, call.decision.lease)
        except AccountNotFoundError:
            raise Problem("account_not_found") from None
        if account.version < query.min_version:
            raise Problem("version_not_reached", f"The account is at version {account.version}.")
        return _shown(call, account.version, render.account(account))

    async def list_accounts(self, call: Call, query: AccountsQuery) -> Reply:
        """List the accounts of the ledger by id."""
        after = "" if query.cursor is None else read_cursor(query.cursor, str)
        if not after.isascii() or "\x00" in after:
            raise invalid("cursor", "This is not a cursor of this list.")
        own = call.key.accounts
        prefixes = (query.prefix,) if own is None else own.under(query.prefix)
        accounts = await self._accounts.page(call.ledger_id, prefixes, after, query.limit + 1)
        return page(accounts, query.limit, render.account, lambda account: account.id)

    async def patch_account(self, call: Call, body: models.AccountPatch) -> Reply:
        """Change an account's limits, metadata, or whether it is closed."""
        _check_limits(body)
        if_versions = read_if_match(call)
        # On transfers this refusal is bound to a key. A change has no key, so the same request can only fail again.
        account_id = named_account(call, retry="never")
        try:
            account = await self._accounts.change(
                call.ledger_id, account_id, _change(body), if_versions, call.release_place
            )
        except AccountNotFoundError:
            raise Problem("account_not_found", retry="never") from None
        except VersionChangedError:
            raise Problem("precondition_failed") from None
        except LimitsConflictError:
            raise Problem("limits_conflict") from None
        except MetadataFullError:
            raise Problem("metadata_full") from None
        except OutcomeUnknownError:
            if if_versions is not None:
                # With If-Match a retry is safe: a 412 then says that the change was made.
                raise
            raise _lost_change() from None
        return Reply(200, render.account(account), headers=etag(account.version))

    async def list_entries(self, call: Call, query: EntriesQuery) -> Reply:
        """List the entries of an account, newest first."""
        before = None if query.cursor is None else read_cursor(query.cursor, tuple[Position, Version])
        account_id = named_account(call)
        try:
            entries = await self._history.entries(
                call.ledger_id,
                account_id,
                since=query.since,
                until=query.until,
                before=before,
                limit=query.limit + 1,
                on_wait=call.release_place,
            )
        except AccountNotFoundError:
            raise Problem("account_not_found") from None
        return page(
            without_hidden(entries, call.key.accounts),
            query.limit,
            render.entry,
            lambda entry: (entry.created_at, entry.version),
        )

    async def get_balance(self, call: Call, query: BalanceQuery) -> Reply:
        """Answer with the balance of an account at a past instant."""
        account_id = named_account(call)
        try:
            past = await self._history.balance_at(
                call.ledger_id, account_id, query.at, effective=query.by == "effective", on_wait=call.release_place
            )
        except AccountNotFoundError:
            raise Problem("account_not_found") from None
        except FutureInstantError:
            raise invalid("at", "The instant is in the future.") from None
        return Reply(200, render.past_balance(account_id, query.at, past))


def _requested(body: models.AccountCreate, prefix: str = "") -> AccountRequest:
    _check_limits(body, prefix)
    return AccountRequest(body.id, body.currency, body.floor, body.ceiling, models.canonical(body.metadata))


def _check_limits(body: models.AccountCreate | models.AccountPatch, prefix: str = "") -> None:
    """Refuse limits that contradict each other, whatever the ledger holds."""
    if isinstance(body.floor, int) and isinstance(body.ceiling, int) and body.floor > body.ceiling:
        raise invalid(f"{prefix}/floor", "The floor is above the ceiling.")


def _difference(request: AccountRequest, account: Account) -> list[str]:
    """Return the names of the fields in which an existing account differs from the request."""
    fields = [name for name in ("currency", "floor", "ceiling") if getattr(request, name) != getattr(account, name)]
    if msgspec.json.decode(request.metadata) != msgspec.json.decode(account.metadata):
        fields.append("metadata")
    return fields


def _exists(fields: list[str]) -> Problem:
    return Problem(
        "account_exists", f"The account exists and differs in: {', '.join(fields)}.", members={"fields": fields}
    )


def _read_item(call: Call, number: int, raw: msgspec.Raw) -> AccountRequest | Problem:
    """Return the account that an item of a bulk requests, or the problem of the item."""
    pointer = f"/accounts/{number}"
    try:
        request = _requested(models.account_create.decode(raw), pointer)
        check_opening(call, request.id)
        return request
    except msgspec.ValidationError as error:
        return shape_problem(error, pointer, text=raw)
    except ValueError:
        return invalid(pointer, "The item is not JSON in UTF-8.")
    except Problem as problem:
        return problem


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


def _change(body: models.AccountPatch) -> AccountChange:
    return AccountChange(
        set_floor=body.floor is not UNSET,
        floor=None if body.floor is UNSET else body.floor,
        set_ceiling=body.ceiling is not UNSET,
        ceiling=None if body.ceiling is UNSET else body.ceiling,
        closed=None if body.closed is UNSET else body.closed,
        metadata_merge=msgspec.json.encode(body.metadata).decode() if isinstance(body.metadata, dict) else None,
        metadata_clear=body.metadata is None,
    )


def _shown(call: Call, version: int, body: bytes) -> Reply:
    headers = etag(version)
    match = call.head.if_none_match
    if match is not None and names_tag(match, str(version)):
        return Reply(304, b"", headers=headers)
    return Reply(200, body, headers=headers)


def _lost_change() -> Problem:
    """Return the problem of a change with unknown outcome: without a key, a retry could overwrite another change."""
    detail = "It is not known whether the account was changed. Read it before you send the change again."
    return Problem("unavailable", detail, outcome="unknown", retry="never", retry_after=retry_after_seconds())
