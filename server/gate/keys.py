"""API keys: finds the key of a token, with its role and its limits."""

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable
from copy import copy
from enum import IntEnum
from typing import NamedTuple, TypeVar

import asyncpg

from server.gate.key_uses import KeyUses
from server.gate.limits import Limit
from server.gate.tokens import ParsedToken, parse_token, token_name
from server.ledger.prefixes import Prefixes
from server.store.coalescer import Coalescer, QueueFullError
from server.store.errors import StoreUnavailableError, UnpreparedError
from server.store.postgres import Database

# How long a worker trusts a key that it has read, and so how long a revoked key may still pass.
CACHE_SECONDS = 5.0
# The same while Postgres is known to be away: the last snapshots live for ten seconds more, and only remembered keys
# can read them. Nothing can be written during that time.
CACHE_AWAY_SECONDS = 15.0
# A request in the last REFRESH_SECONDS of that time starts a new read of its key, which is still trusted meanwhile. So
# the requests of a busy key, perhaps thousands, never wait for a read. Also the time before a failed read is repeated.
REFRESH_SECONDS = 1.0
# Tokens remembered at once. Known and unknown ones are kept apart, so that made-up tokens never evict real ones.
CACHE_KEYS_MAX = 10_000
# Tokens never found good before that one query looks up. Only one such query runs at a time, so made-up tokens, however
# many, take one place of the readers' queue and one of their connections.
UNKNOWN_KEYS_BATCH_MAX = 100
# Such tokens that may wait: a few milliseconds of queries. A restart does not refuse clients that all come at once,
# because they share their keys.
UNKNOWN_KEYS_QUEUE_MAX = 400
# Tokens found good before that one query looks up, in a few milliseconds, and the number of such queries that run at
# once. The queue needs no limit: no more tokens wait than are remembered.
KNOWN_KEYS_BATCH_MAX = 200
KNOWN_KEYS_IN_FLIGHT_MAX = 2

T = TypeVar("T")

log = logging.getLogger(__name__)


class Role(IntEnum):
    """What a key may do. Each role includes the ones before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


class Defaults(NamedTuple):
    """The default limits of keys, and the limits of a ledger as a whole (None: unlimited) and of network addresses."""

    key: Limit = Limit(1_000, 1, 2_000)
    ledger: Limit | None = None
    # Failed authentications from one network address: fifty machines behind one address that start with a wrong key
    # still learn that it is wrong, and guessing 256 bits at ten a second is hopeless.
    failures: Limit = Limit(10, 1, 50)
    # Other requests without a key from one network address: enough for an office that reads the pages of problems, too
    # few for a scanner of paths.
    anonymous: Limit = Limit(50, 1, 200)
    # Requests that one key may have running at once in one worker.
    concurrency: int = 1_000

    def limit(self, quota: int | None, window: int | None, burst: int | None) -> Limit:
        """Return the limit of a key with these values; None takes the default."""
        bursts = self.key.burst if quota is None else quota
        return Limit(quota or self.key.quota, window or self.key.window, burst or bursts)


class ApiKey:
    """
    A key that exists and is not revoked, with its limits ready to be counted.

    Args:
        limit: The limit of the key itself.

        concurrency: Requests of the key that may be running at once in one worker.

        ledger_limit: The limit of all keys of the ledger together.

        accounts: The accounts that the key is narrowed to; None is the whole ledger.

        ends: When the key ends, on the clock of `time.monotonic`, in seconds.
    """

    __slots__ = (
        *("accounts", "buckets", "concurrency", "ends", "id", "ledger_id"),
        *("limit", "limits", "policies", "policy", "role"),
    )

    def __init__(
        self,
        ledger_id: int,
        key_id: str,
        role: Role,
        *,
        limit: Limit,
        concurrency: int,
        ledger_limit: Limit | None,
        accounts: Prefixes | None = None,
        ends: float = math.inf,
    ) -> None:
        self.ledger_id = ledger_id
        self.id = key_id
        self.role = role
        self.accounts = accounts
        self.ends = ends
        self.limit = limit
        self.concurrency = concurrency
        # The limits by their names within the ledger, and then their buckets.
        self.limits = [(f"k:{key_id}", limit)]
        if ledger_limit is not None:
            self.limits.append(("l", ledger_limit))
        self.buckets = [(name, of.bucket()) for name, of in self.limits]
        # The names of the limits as callers read them.
        self.policies = ("default", "ledger")[: len(self.limits)]
        shown = (of.policy(name) for name, (_, of) in zip(self.policies, self.limits, strict=True))
        self.policy = ", ".join(shown).encode()

    def of_one_limit(self, position: int) -> "ApiKey":
        """Return a copy of the key that has only the limit at *position*."""
        single = copy(self)
        single.limits, single.buckets = [self.limits[position]], [self.buckets[position]]
        return single


class UnknownKeysFullError(QueueFullError):
    """Too many tokens never found good before wait to be looked up. Other tokens are not affected."""


class _Token(NamedTuple):
    """A token to look up."""

    # The result of `token_name`.
    name: bytes
    parsed: ParsedToken


class _Known:
    """A key that was found good, with the row it was read from, until when it is trusted, and when it is read anew."""

    __slots__ = ("expires", "key", "parsed", "refresh_at", "row")

    def __init__(self, key: ApiKey, row: asyncpg.Record, parsed: ParsedToken, expires: float) -> None:
        self.key = key
        self.row = row
        self.parsed = parsed
        self.expires = min(expires, key.ends)
        self.refresh_at = expires - REFRESH_SECONDS


class Authenticator:
    """
    Finds the key of a token. Asks Postgres about a token in use once every *CACHE_SECONDS*, or a little sooner.

    Tokens that are looked up at the same time share a query. Tokens found good before and other tokens have a lane
    each, so that made-up tokens do not delay callers that have a key.

    Args:
        uses: Records when a key is used: at each look-up, which a token in use repeats.
    """

    def __init__(self, database: Database, defaults: Defaults | None = None, uses: KeyUses | None = None) -> None:
        self._database = database
        self._defaults = defaults or Defaults()
        self._uses = uses or KeyUses(database)
        # By `token_name`. An expired entry stays until it is read again or evicted: it shows that its token was good.
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, float] = {}
        self._lookups: dict[bytes, asyncio.Future[ApiKey | None]] = {}
        self._known_keys: Coalescer[_Token, ApiKey | None] = Coalescer(
            self._look_up, batch_max=KNOWN_KEYS_BATCH_MAX, in_flight_max=KNOWN_KEYS_IN_FLIGHT_MAX
        )
        self._unknown_keys: Coalescer[_Token, ApiKey | None] = Coalescer(
            self._look_up, batch_max=UNKNOWN_KEYS_BATCH_MAX, in_flight_max=1, queue_max=UNKNOWN_KEYS_QUEUE_MAX
        )

    def knew(self, name: bytes) -> bool:
        """Return whether the token called *name* is remembered as one that was found good, however long ago."""
        return name in self._known

    def remembered(self, name: bytes) -> ApiKey | None:
        """Return the key of the token called *name* if it is still trusted; otherwise None."""
        entry = self._known.get(name)
        if entry is None:
            return None
        now = time.monotonic()
        if now >= entry.refresh_at:
            entry.refresh_at = now + REFRESH_SECONDS
            self._ask(name, entry.parsed, unknown=False)
        over = now - entry.expires
        if over < 0:
            return entry.key
        trusted = self._database.away and over < CACHE_AWAY_SECONDS - CACHE_SECONDS
        return entry.key if trusted and now < entry.key.ends else None

    async def authenticate(
        self, token: str, before_lookup: Callable[[], Awaitable[None]] | None = None
    ) -> ApiKey | None:
        """
        Return the key of a token, or None if it is unknown or revoked.

        Args:
            before_lookup: Called before a token that was never found good is looked up; raises to prevent the look-up.

        Raises:
            UnknownKeysFullError: Too many such tokens wait to be looked up.
            QueueFullError, StoreUnavailableError: The token could not be looked up.
        """
        name = token_name(token)
        key = self.remembered(name)
        if key is not None:
            return key
        now = time.monotonic()
        if self._unknown.get(name, now) > now:
            return None
        if name not in self._lookups:
            parsed = parse_token(token)
            if parsed is None:
                return None
            unknown = not self.knew(name)
            if unknown and before_lookup is not None:
                await before_lookup()
            self._ask(name, parsed, unknown=unknown)
        return await asyncio.shield(self._lookups[name])

    async def read_anew(self, token: str) -> ApiKey | None:
        """
        Read the key of a remembered token from Postgres and return it, or None if it is not good any more.

        Raises:
            QueueFullError, StoreUnavailableError: The key could not be read.
        """
        parsed = parse_token(token)
        return None if parsed is None else await self._known_keys.submit(_Token(token_name(token), parsed))

    def _ask(self, name: bytes, parsed: ParsedToken, *, unknown: bool) -> None:
        """
        Start to look up a token, unless a look-up of it is running.

        Raises:
            UnknownKeysFullError: Too many tokens never found good before wait.
        """
        if name in self._lookups:
            return

        def done(lookup: "asyncio.Future[ApiKey | None]") -> None:
            del self._lookups[name]
            if not lookup.cancelled():
                # Marks an exception as seen: perhaps no request waits, and then the next one looks the token up again.
                lookup.exception()

        lane = self._unknown_keys if unknown else self._known_keys
        try:
            lookup = lane.submit(_Token(name, parsed))
        except QueueFullError:
            raise UnknownKeysFullError from None
        self._lookups[name] = lookup
        lookup.add_done_callback(done)

    async def _look_up(self, tokens: list[_Token]) -> list[ApiKey | None]:
        """Read the keys of these tokens, remember them and return them."""
        # The time counts from before the read, so that a revoked key never passes for longer than the bound.
        now = time.monotonic()
        rows = await self._read([token.parsed for token in tokens])
        return [self._remember(token, row, now) for token, row in zip(tokens, rows, strict=True)]

    def _remember(self, token: _Token, row: asyncpg.Record | None, read_at: float) -> ApiKey | None:
        """Remember the row of a token, read at *read_at* on the clock of `time.monotonic`, and return its key."""
        name, parsed = token
        expires = read_at + CACHE_SECONDS
        before = self._known.pop(name, None)
        self._unknown.pop(name, None)
        seconds_left = _seconds_left(row, parsed.digest)
        if row is None or seconds_left <= 0:
            _keep(self._unknown, name, expires)
            return None
        # The row of a key that ends always differs, because it says how many seconds are left.
        same = before.key if before is not None and before.row == row else None
        key = same or self._key(row, parsed, read_at + seconds_left)
        self._uses.note(parsed.ledger_id, parsed.id, read_at)
        _keep(self._known, name, _Known(key, row, parsed, expires))
        return key

    def _key(self, row: asyncpg.Record, parsed: ParsedToken, ends: float) -> ApiKey:
        defaults = self._defaults
        limit = defaults.limit(row["rate_quota"], row["rate_window"], row["burst"])
        return ApiKey(
            parsed.ledger_id,
            parsed.id,
            Role[row["role"].upper()],
            limit=limit.counted,
            concurrency=row["concurrency"] or defaults.concurrency,
            ledger_limit=defaults.ledger,
            accounts=None if row["accounts"] is None else Prefixes(tuple(row["accounts"])),
            ends=ends,
        )

    async def _read(self, keys: list[ParsedToken]) -> list[asyncpg.Record | None]:
        """Return the rows of the keys of these tokens; None for a key that does not exist or is revoked."""
        names = list({(key.ledger_id, key.id) for key in keys})
        try:
            rows = await self._database.read("api_key_read_many", *map(list, zip(*names, strict=True)))
        except UnpreparedError as error:
            # Readiness says what is missing. No request is served until keys can be looked up.
            log.warning("keys cannot be looked up: %s", error.kind)
            raise StoreUnavailableError(error.kind) from error
        found = {(row["ledger_id"], row["id"]): row for row in rows}
        return [found.get((key.ledger_id, key.id)) for key in keys]


def _seconds_left(row: asyncpg.Record | None, digest: bytes) -> float:
    """Return for how many seconds a secret with this digest still opens its key; 0 if it is not one of its secrets."""
    seconds = 0.0
    # The comparison takes constant time; if there is no such key, it is made with zeros.
    kept = [(bytes(32), 0.0)]
    if row is not None:
        kept = [(row["digest"], math.inf), *zip(row["former_digests"], row["former_seconds_left"], strict=True)]
    for known, seconds_left in kept:
        if hmac.compare_digest(known, digest):
            seconds = seconds_left
    ends = None if row is None else row["seconds_left"]
    return seconds if ends is None else min(seconds, ends)


def _keep(cache: dict[bytes, T], name: bytes, value: T) -> None:
    """Keep *value*, dropping the oldest entry when the cache is full."""
    if len(cache) >= CACHE_KEYS_MAX:
        del cache[next(iter(cache))]
    cache[name] = value
