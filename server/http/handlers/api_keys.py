"""Handlers of API keys."""

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from server.gate.key_store import (
    CHANGES,
    OVERLAP_SECONDS_DEFAULT,
    OVERLAP_SECONDS_MAX,
    KeyChange,
    KeyEndedError,
    KeyLimit,
    KeyNotFoundError,
    KeyOutcomeUnknownError,
    KeyRequest,
    KeysFullError,
    StoredKey,
    change_key,
    make_key,
    read_key,
    read_page,
    revoke_key,
    rotate_key,
)
from server.gate.keys import Defaults
from server.gate.limits import BURST_MAX, CONCURRENCY_MAX, QUOTA_MAX, read_rate, shown_rate
from server.gate.tokens import is_key_id, is_token
from server.http.call import Call
from server.http.cursors import Position, read_cursor
from server.http.headers import NO_STORE
from server.http.instants import read_instant
from server.http.listing import page
from server.http.members import Instant
from server.http.models import AccountId, Description, Strict
from server.http.problems import Problem, invalid, retry_after_seconds
from server.http.query import PageQuery, Query
from server.http.render import instant
from server.http.reply import Reply
from server.ledger.prefixes import PREFIXES_MAX, Prefixes
from server.ledger.row_locks import RowLocks
from server.store.postgres import Database

ApiKeyId = Annotated[
    str,
    Meta(
        description="The public id of the key.",
        examples=["5d41402abc4b2a76"],
        extra_json_schema={"pattern": "^[0-9a-f]{16}$"},
    ),
]
RoleName = Annotated[
    Literal["read", "write", "admin"],
    Meta(description="What the key may do: each role includes the ones before it."),
]
Accounts = Annotated[
    list[Annotated[AccountId, Meta(description="Beginning of account ids.")]],
    Meta(
        min_length=1,
        max_length=PREFIXES_MAX,
        description="Prefixes of the account ids that the key is narrowed to; null means the whole ledger.",
        examples=[["customer:"]],
    ),
]
Rate = Annotated[
    str,
    Meta(
        description=f"Rate of requests that the key may make, up to {QUOTA_MAX:,}; null means the service's default.",
        examples=["100/s"],
        extra_json_schema={"pattern": "^[1-9][0-9]{0,6}(/(s|min|h|day))?$"},
    ),
]
Burst = Annotated[int, Meta(ge=1, le=BURST_MAX, description="Most requests at once; null means the number in `rate`.")]
Concurrency = Annotated[
    int,
    Meta(ge=1, le=CONCURRENCY_MAX, description="Most requests that run at once in one worker; null means the default."),
]
Expiry = Annotated[
    str,
    Meta(
        description="Instant at which the key stops working; null means never.",
        extra_json_schema={"format": "date-time"},
    ),
]

_NOT_A_TOKEN = (
    "Name the key by its id alone, the 16 digits after the second underscore of its token. "  # noqa: S105 -- no token
    "A token is secret and belongs in no URL, because URLs are logged: rotate or revoke the key."
)
T = TypeVar("T")

_encode = msgspec.json.Encoder().encode

log = logging.getLogger(__name__)


class ApiKeyCreate(Strict, kw_only=True):
    """A key to make."""

    role: RoleName
    description: Description | None = None
    expires_at: Expiry | None = None
    accounts: Accounts | None = None
    rate: Rate | None = None
    burst: Burst | None = None
    concurrency: Concurrency | None = None


class ApiKeyPatch(Strict, kw_only=True):
    """A change of a key; null sets a field back to its default."""

    description: Description | UnsetType | None = UNSET
    expires_at: Expiry | UnsetType | None = UNSET
    accounts: Accounts | UnsetType | None = UNSET
    rate: Rate | UnsetType | None = UNSET
    burst: Burst | UnsetType | None = UNSET
    concurrency: Concurrency | UnsetType | None = UNSET


class ApiKeyRotate(Strict, kw_only=True):
    """How long the older tokens of the key still work."""

    overlap_seconds: Annotated[
        int, Meta(ge=0, le=OVERLAP_SECONDS_MAX, description="Seconds for which the older tokens still work.")
    ] = OVERLAP_SECONDS_DEFAULT


class ApiKeyRevoke(Strict, kw_only=True):
    """The revocation of a key, which has no parameters."""


class ApiKeyBody(msgspec.Struct, gc=False):
    """A key."""

    id: ApiKeyId
    role: RoleName
    description: str | None
    accounts: Accounts | None
    rate: Rate | None
    burst: Burst | None
    concurrency: Concurrency | None
    created_at: Instant
    expires_at: Annotated[Instant, Meta(description="Instant at which the key stops working; null means never.")] | None
    revoked_at: Instant | None
    last_used_at: Annotated[Instant, Meta(description="Minute in which the key was last used.")] | None
    previous_tokens_until: (
        Annotated[Instant, Meta(description="Instant at which the replaced tokens stop working.")] | None
    )


class ApiKeyTokenBody(ApiKeyBody, kw_only=True, gc=False):
    """A key with its token, which is shown once."""

    token: Annotated[str, Meta(description="Token for `Authorization: Bearer <token>`. It is not shown again.")]


class ApiKeyHandlers:
    """
    Handlers of API keys. A key that is narrowed to accounts sees and makes only keys that are narrowed to some of them.

    No key can extend its own rights: it cannot lift its own limits, and no key that it makes, extends or rotates ends
    later than itself.

    Args:
        database: Stores the keys.

        defaults: The limits of keys without limits of their own.

        rows: Knows the locked accounts; requests wait for locked keys beside those that wait for them.
    """

    def __init__(self, database: Database, defaults: Defaults, rows: RowLocks) -> None:
        self._database = database
        self._defaults = defaults
        self._rows = rows.beside("api_key_locked_many")

    async def create_api_key(self, call: Call, body: ApiKeyCreate) -> Reply:
        """Make a key, and answer with its token."""
        limit = _limit(body)
        with _refusals():
            limit.check(self._defaults.key)
        accounts = _accounts(call, body.accounts)
        expires_at = _expiry(body.expires_at)
        await self._check_end(call, expires_at)
        asked = KeyRequest(body.role, limit, body.description, expires_at, accounts)
        try:
            key, token = await make_key(self._database, call.ledger_id, asked)
        except KeyOutcomeUnknownError as error:
            raise _lost_key(error.key_id) from None
        except KeysFullError:
            raise Problem("api_keys_full") from None
        _log(call, "created", key)
        return _told(201, key, token)

    async def list_api_keys(self, call: Call, query: PageQuery) -> Reply:
        """List the keys of the ledger, newest first."""
        before = None if query.cursor is None else read_cursor(query.cursor, tuple[Position, ApiKeyId])
        if before is not None and not is_key_id(before[1]):
            raise invalid("cursor", "This is not a cursor of this list.")
        found = await read_page(
            self._database, call.ledger_id, query.limit + 1, before=before, within=call.key.accounts
        )
        return page(found, query.limit, _shown, lambda key: (key.created_at, key.id))

    async def get_api_key(self, call: Call, _query: Query) -> Reply:
        """Answer with a key."""
        with _refusals():
            key = await read_key(self._database, call.ledger_id, _named(call), call.key.accounts)
        return Reply(200, _shown(key))

    async def patch_api_key(self, call: Call, body: ApiKeyPatch) -> Reply:
        """Change a key."""
        named = {name for name in CHANGES if getattr(body, name) is not UNSET}
        expires_at = None if body.expires_at is UNSET else _expiry(body.expires_at)
        if body.expires_at is not UNSET:
            await self._check_end(call, expires_at)
        accounts = None if body.accounts is UNSET else _accounts(call, body.accounts)
        description = None if body.description is UNSET else body.description
        change = KeyChange(named, _limit(body), description, expires_at, accounts)

        def check(key: StoredKey) -> None:
            if key.id == call.key.id and key.limit.changed(named, change.limit).exceeds(key.limit, self._defaults):
                raise Problem("forbidden", "A key cannot raise its own limits. Use another key with the role admin.")

        with _refusals():
            key = await self._write(call, partial(change_key, change=change, default=self._defaults.key, check=check))
        _log(call, "changed", key, fields=sorted(named))
        return Reply(200, _shown(key))

    async def rotate_api_key(self, call: Call, body: ApiKeyRotate) -> Reply:
        """Give a key a new token, and answer with it."""
        with _refusals():
            key = await read_key(self._database, call.ledger_id, _named(call), call.key.accounts)
            await self._check_end(call, key.expires_at)
            key, token = await self._write(call, partial(rotate_key, overlap_seconds=body.overlap_seconds))
        _log(call, "rotated", key, overlap_seconds=body.overlap_seconds)
        return _told(200, key, token)

    async def revoke_api_key(self, call: Call, _body: ApiKeyRevoke) -> Reply:
        """Revoke a key for ever."""
        with _refusals():
            key = await self._write(call, revoke_key)
        _log(call, "revoked", key)
        return Reply(200, _shown(key))

    async def _write(self, call: Call, write: Callable[..., Awaitable[T]]) -> T:
        """Write the key in the path, without the place of the request while it is locked."""
        key_id = _named(call)
        statement = partial(write, self._database, call.ledger_id, key_id, within=call.key.accounts)
        return await self._rows.write(call.ledger_id, key_id, statement, call.release_place)

    async def _check_end(self, call: Call, at: datetime | None) -> None:
        """
        Refuse a key that would end *at* an instant, or never, if it outlived the key of the request.

        Raises:
            Problem: It would. The end of the request's key counts, not the earlier end of a replaced token.
        """
        if call.key.ends == math.inf:
            return
        with _refusals():
            own = (await read_key(self._database, call.ledger_id, call.key.id)).expires_at
        if own is not None and (at is None or at > own):
            detail = f"A key cannot make, extend or rotate a key that outlives it. This one ends at {instant(own)}."
            raise Problem("forbidden", detail)


@contextmanager
def _refusals() -> Iterator[None]:
    """
    Turn errors of the key store into problems.

    Raises:
        Problem: The body raised such an error.
    """
    try:
        yield
    except KeyNotFoundError:
        raise Problem("api_key_not_found") from None
    except KeyEndedError:
        raise Problem("api_key_ended") from None
    except ValueError:
        raise invalid("/burst", "The burst is too large for so slow a rate.") from None


def _named(call: Call) -> str:
    """
    Return the id in the path.

    Raises:
        Problem: The text in the path is not an id.
    """
    if not is_key_id(call.names[0]):
        raise Problem("api_key_not_found", _NOT_A_TOKEN if is_token(call.names[0]) else None)
    return call.names[0]


def _limit(body: ApiKeyCreate | ApiKeyPatch) -> KeyLimit:
    """
    Return the limits in a body.

    Raises:
        Problem: The rate is malformed.
    """
    quota = window = None
    if isinstance(body.rate, str):
        try:
            quota, window = read_rate(body.rate)
        except ValueError as error:
            raise invalid("/rate", f"{str(error).capitalize()}.") from None
    return KeyLimit(
        quota,
        window,
        None if body.burst is UNSET else body.burst,
        None if body.concurrency is UNSET else body.concurrency,
    )


def _expiry(text: str | None) -> datetime | None:
    """
    Return the instant at which a key is to end.

    Raises:
        Problem: The text is not an instant, or the instant has passed by this server's clock. The database's clock
            decides later when the key ends.
    """
    if text is None:
        return None
    try:
        at = read_instant(text)
    except ValueError as error:
        raise invalid("/expires_at", str(error)) from None
    if at <= datetime.now(UTC):
        raise invalid("/expires_at", "The instant has passed; to end a key now, revoke it.")
    return at


def _accounts(call: Call, texts: list[str] | None) -> Prefixes | None:
    """
    Return the accounts that a key is to be narrowed to.

    Raises:
        Problem: The key of the request does not see all of them.
    """
    accounts = None if texts is None else Prefixes.of(texts)
    own = call.key.accounts
    if own is not None and not own.cover(accounts):
        detail = "A key that is narrowed to accounts can give no access to others. Narrow the key to some of these: "
        raise Problem("forbidden", f"{detail}{', '.join(own.texts)}.")
    return accounts


def _lost_key(key_id: str) -> Problem:
    """Return the problem of a key that may have been made and whose token nobody has."""
    detail = f"It is not known whether the key {key_id} was made; nobody has its token. Revoke it, and make another."
    return Problem("unavailable", detail, outcome="unknown", retry_after=retry_after_seconds())


def _log(call: Call, what: str, key: StoredKey, **fields: object) -> None:
    """Log for operators what was done to a key, and by which key; a token is never logged."""
    shown = {"api_key": key.id, "by": call.key.id, "ledger_id": call.ledger_id, "request_id": call.request_id}
    log.info("API key %s", what, extra={"fields": {**shown, **fields}})


def _body(key: StoredKey) -> ApiKeyBody:
    return ApiKeyBody(
        key.id,
        key.role,  # type: ignore[arg-type]  # the database has no other
        key.description,
        None if key.accounts is None else list(key.accounts),
        None if key.quota is None or key.window is None else shown_rate(key.quota, key.window),
        key.burst,
        key.concurrency,
        instant(key.created_at),
        _instant(key.expires_at),
        _instant(key.revoked_at),
        _instant(key.last_used_at),
        _instant(key.former_until),
    )


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)


def _shown(key: StoredKey) -> bytes:
    return _encode(_body(key))


def _told(status: int, key: StoredKey, token: str) -> Reply:
    """Return the reply with a key and its token."""
    body: dict[str, Any] = {**msgspec.structs.asdict(_body(key)), "token": token}
    return Reply(status, _encode(ApiKeyTokenBody(**body)), headers=NO_STORE)
