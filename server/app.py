"""The only place where the parts meet."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import RedisError

from server.gate.addresses import AddressLimit
from server.gate.gate import Gate
from server.gate.keys import Authenticator, Defaults
from server.gate.limits import Limit, read_rate
from server.http import render
from server.http.accounts import AccountHandlers
from server.http.bulk import BulkHandlers
from server.http.callers import Callers
from server.http.forwarded import TrustedProxies
from server.http.health import HealthHandlers
from server.http.observer import Observer
from server.http.pages import PageHandlers
from server.http.pipeline import Pipeline
from server.http.routes import Router, bind
from server.http.runtime import runtime_failures
from server.http.server import HttpServer
from server.http.transfers import TransferHandlers
from server.ledger.accounts import Accounts
from server.ledger.history import History
from server.ledger.posting import PostingLane
from server.ledger.row_locks import RowLocks
from server.ledger.self_check import SelfCheck
from server.settings import Settings, SettingsError
from server.store.background import stop
from server.store.cache import Cache
from server.store.cache_counters import CacheCounters
from server.store.hosts import check_address
from server.store.keyspace import Keyspace
from server.store.postgres import Database
from server.store.readiness import Readiness
from server.store.redis import INVALIDATION_ATTEMPTS_MAX, INVALIDATION_PAUSE_SECONDS, Redis
from server.store.redis_cluster import connect
from server.telemetry.failpoints import Failpoints
from server.telemetry.tallies import Tallies
from server.telemetry.trace import check_collector, open_traces

if TYPE_CHECKING:
    from server.telemetry.otel import Traces

# Seconds that running postings get to be resolved when the service stops: a little more than their own deadline.
DRAIN_SECONDS = 6.0

# Seconds that an invalidation may wait in another process, between the commit and its first attempt and among attempts.
INVALIDATION_MARGIN_SECONDS = 1.0

log = logging.getLogger(__name__)


def default_limits(settings: Settings) -> Defaults:
    """
    Return the limits of keys that have none of their own.

    Raises:
        SettingsError: A rate is not one, or cannot be counted exactly together with its burst.
    """
    key = _limit("", settings.rate, settings.burst)
    ledger = None if settings.ledger_rate is None else _limit("ledger_", settings.ledger_rate, settings.ledger_burst)
    failures = _limit("auth_failure_", settings.auth_failure_rate, settings.auth_failure_burst)
    anonymous = _limit("anonymous_", settings.anonymous_rate, settings.anonymous_burst)
    return Defaults(key, ledger, failures, anonymous, settings.concurrency)


def _limit(prefix: str, rate: str, burst: int) -> Limit:
    """Return the limit that the settings `<prefix>rate` and `<prefix>burst` give."""
    try:
        limit = Limit(*read_rate(rate), burst)
    except ValueError as error:
        raise SettingsError(f"{prefix}rate: {error}") from None
    if not limit.exact:
        raise SettingsError(f"{prefix}burst: too large for so slow a rate")
    return limit


def trusted_proxies(settings: Settings) -> TrustedProxies:
    """
    Return the proxies that are believed.

    Raises:
        SettingsError: One is neither an address nor a network.
    """
    try:
        return TrustedProxies(settings.trusted_proxies)
    except ValueError as error:
        raise SettingsError(f"trusted_proxies: {error}") from None


def connect_redis(settings: Settings, tallies: Tallies) -> Redis:
    """
    Return the client of Redis; nothing is connected to yet.

    Raises:
        SettingsError: The address has an option that there is not, or one with a wrong value.
    """
    assert settings.redis_url is not None, "the caller decides between an address and the embedded server"
    try:
        return connect(settings.redis_url, settings.redis_timeout_ms / 1000, tallies.batches["redis"])
    except (ValueError, TypeError, RedisError):
        # What the driver says may hold a piece of the password.
        text = "behind its ? is an option that there is not, or one that cannot have that value"
        raise SettingsError(f"redis_url: {text}") from None


def postgres_address(settings: Settings) -> str:
    """
    Return the address of Postgres.

    Raises:
        SettingsError: It means nothing.
    """
    assert settings.database_url is not None, "the caller decides between an address and the embedded servers"
    try:
        check_address(settings.database_url)
    except ValueError as error:
        raise SettingsError(f"database_url: {error}") from None
    return settings.database_url


def check_settings(settings: Settings) -> None:
    """
    Return if a service could be made with the settings: what each of them may be alone was checked when it was read.

    Raises:
        SettingsError: As `create_app`, in the same words.
    """
    default_limits(settings)
    trusted_proxies(settings)
    check_collector(settings.otel_endpoint)
    if settings.database_url is not None:
        postgres_address(settings)
    if settings.redis_url is not None:
        connect_redis(settings, Tallies())


class App(NamedTuple):
    """A service that can be given connections."""

    server: HttpServer
    readiness: Readiness
    database: Database
    redis: Redis
    counters: CacheCounters
    tallies: Tallies
    authenticator: Authenticator
    gate: Gate
    posting: PostingLane
    # None where nobody wants any.
    traces: "Traces | None" = None


@asynccontextmanager
async def create_app(settings: Settings, workers: int = 1) -> AsyncIterator[App]:
    """
    Make the service and close it in reverse: what was posted is resolved before the pools go.

    Args:
        settings: With a `database_url`; the schema need not be there, and Postgres need not run.

        workers: Processes that serve with them, this one included; each admits its part while Redis is away.

    Raises:
        SettingsError: A setting fits its kind and cannot be used.
    """
    defaults = default_limits(settings)
    proxies = trusted_proxies(settings)
    address = postgres_address(settings)
    traces = open_traces(settings.otel_endpoint, settings.otel_sample)
    async with Database(
        address,
        posting_connections=settings.posting_connections,
        reading_connections=settings.reading_connections,
        slow_seconds=settings.slow_ms / 1000,
    ) as database:
        tallies = Tallies()
        redis = connect_redis(settings, tallies)
        keyspace = Keyspace()
        database.watcher = keyspace
        await keyspace.learn(database)
        following = asyncio.create_task(keyspace.follow(database))
        counters = CacheCounters()
        cache = Cache(redis, keyspace, counters, settings.replay_seconds)
        gate = Gate(redis, keyspace, workers, counters, tallies)
        rows = RowLocks(database)
        accounts = Accounts(database, cache, rows, render.account, tallies.batches["read"])
        patience = INVALIDATION_ATTEMPTS_MAX * (settings.redis_timeout_ms / 1000 + INVALIDATION_PAUSE_SECONDS)
        self_check = SelfCheck(database, cache, render.account, patience + INVALIDATION_MARGIN_SECONDS)
        failpoints = Failpoints(settings.failpoints)
        posting = PostingLane(database, cache, render.answer, rows, failpoints=failpoints, tallies=tallies)
        history = History(database, cache, accounts, rows)
        readiness = Readiness(database, runtime_failures())
        authenticator = Authenticator(database, defaults)
        callers = Callers(
            authenticator,
            AddressLimit(redis, keyspace, defaults.failures, workers),
            AddressLimit(redis, keyspace, defaults.anonymous, workers, "anonymous"),
            proxies,
        )
        handlers = (
            AccountHandlers(accounts, history, cache, keyspace, self_check),
            TransferHandlers(posting, history, keyspace, tallies),
            BulkHandlers(posting),
            HealthHandlers(readiness),
            PageHandlers(),
        )
        observer = Observer(tallies, settings.slow_ms / 1000, settings.log_sample, traces)
        pipeline = Pipeline(Router(bind(handlers)), callers, gate, observer)
        try:
            server = HttpServer(pipeline)
            yield App(server, readiness, database, redis, counters, tallies, authenticator, gate, posting, traces)
        finally:
            await _drain(posting, accounts, gate)
            await stop(following)
            await self_check.close()
            await rows.close()
            await cache.close()
            await redis.close()
            if traces is not None:
                await traces.close()


async def _drain(posting: PostingLane, accounts: Accounts, gate: Gate) -> None:
    """Return when all that was submitted has been resolved, or when that takes too long."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await posting.drain()
            await accounts.drain()
            await gate.drain()
    except TimeoutError:
        log.warning("stopping with unresolved postings: their callers retry with the same key")
