"""Puts the parts of the service together; no other module knows all of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from server.books import create_books
from server.checked_settings import allowed_origins, postgres_address, trusted_proxies
from server.events.feed import Feed
from server.events.webhooks.configuration import make_vault, read_destinations
from server.events.webhooks.endpoints import Endpoints
from server.events.webhooks.sender import Sender
from server.gate.addresses import AddressLimit
from server.gate.default_limits import default_limits
from server.gate.gate import Gate
from server.gate.key_uses import KeyUses
from server.gate.keys import Authenticator
from server.http import openapi, render
from server.http.callers import Callers
from server.http.cors import Cors
from server.http.feed_reading import Readings
from server.http.handlers.accounts import AccountHandlers
from server.http.handlers.api_keys import ApiKeyHandlers
from server.http.handlers.bulk import BulkHandlers
from server.http.handlers.event_streams import EventStreamHandlers
from server.http.handlers.events import EventHandlers
from server.http.handlers.health import HealthHandlers
from server.http.handlers.integrity import IntegrityHandlers
from server.http.handlers.key_limits import LimitHandlers
from server.http.handlers.ledger import LedgerHandlers
from server.http.handlers.pages import PageHandlers
from server.http.handlers.previews import PreviewHandlers
from server.http.handlers.reference import ReferenceHandlers
from server.http.handlers.statements import StatementHandlers
from server.http.handlers.transfer_lists import TransferListHandlers
from server.http.handlers.transfers import TransferHandlers
from server.http.handlers.webhook_endpoints import WebhookHandlers
from server.http.narrowing import Narrowing
from server.http.observer import Observer
from server.http.pipeline import Pipeline
from server.http.router import Router, bind
from server.http.runtime import runtime_failures
from server.http.streams import Downloads, EventStreams, Streams, Waiting
from server.http.wire.server import HttpServer
from server.ledger.audit_rounds import Rounds
from server.ledger.history import History
from server.ledger.narrowed import ParentSides
from server.ledger.posting import PostingLane
from server.ledger.preview import Previewer
from server.ledger.recent import RecentInstants
from server.ledger.self_check import SelfCheck
from server.ledger.statements import Statements
from server.ledger.summary import Summaries
from server.ledger.transfer_lists import TransferLists
from server.ledger.trial_balance import TrialBalances
from server.settings import Settings
from server.store.cache_counters import CacheCounters
from server.store.postgres import Database
from server.store.readiness import Readiness
from server.store.redis import INVALIDATION_ATTEMPTS_MAX, INVALIDATION_PAUSE_SECONDS, Redis
from server.store.reports import Reports
from server.telemetry.tallies import Tallies
from server.telemetry.trace import open_traces

if TYPE_CHECKING:
    from server.telemetry.otel import Traces

# Seconds that an invalidation may wait in another process: between the commit and its first attempt, and between
# attempts.
INVALIDATION_MARGIN_SECONDS = 1.0


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
    readings: Readings
    history: History
    feed: Feed
    streams: Streams
    event_streams: EventStreams
    waiting: Waiting
    # None if no collector is configured.
    traces: "Traces | None" = None


@asynccontextmanager
async def create_app(settings: Settings, workers: int = 1) -> AsyncIterator[App]:
    """
    Make the service, and close it in reverse: everything submitted is resolved before the pools close.

    Args:
        settings: With a `database_url`. The schema need not exist, and Postgres need not run.

        workers: Number of processes that serve with them, this one included. Each admits its share while Redis is away.

    Raises:
        SettingsError: A setting has a valid form but cannot be used.
    """
    defaults = default_limits(settings)
    proxies = trusted_proxies(settings)
    destinations = read_destinations(settings)
    async with create_books(settings) as books:
        traces = open_traces(settings.otel_endpoint, settings.otel_sample)
        database, keyspace, redis, cache = books.database, books.keyspace, books.redis, books.cache
        posting, tallies = books.posting, books.tallies
        gate = Gate(redis, keyspace, workers, books.counters, tallies)
        patience = INVALIDATION_ATTEMPTS_MAX * (settings.redis_timeout_ms / 1000 + INVALIDATION_PAUSE_SECONDS)
        self_check = SelfCheck(database, cache, render.account, patience + INVALIDATION_MARGIN_SECONDS)
        recent = RecentInstants(database, books.rows)
        history = History(database, cache, books.accounts, recent)
        reports, streams = Reports(postgres_address(settings)), Streams()
        readiness = Readiness(database, runtime_failures())
        uses = KeyUses(database)
        authenticator = Authenticator(database, defaults, uses)
        readings, event_streams, waiting = Readings(books.feed, authenticator), EventStreams(), Waiting()
        failures = AddressLimit(redis, keyspace, defaults.failures, workers)
        anonymous = AddressLimit(redis, keyspace, defaults.anonymous, workers, "anonymous")
        callers = Callers(authenticator, failures, anonymous, proxies)
        sender = Sender(destinations)
        endpoints = Endpoints(database, books.feed, make_vault(settings), sender)
        narrowing = Narrowing(ParentSides(database))
        handlers = (
            AccountHandlers(books.accounts, history, cache, keyspace, self_check),
            TransferHandlers(posting, history, keyspace, narrowing, tallies),
            TransferListHandlers(TransferLists(database, cache)),
            BulkHandlers(posting, narrowing),
            StatementHandlers(Statements(database, cache, recent), TrialBalances(database, reports), streams),
            PreviewHandlers(Previewer(database, cache, render.answer), narrowing),
            EventHandlers(readings, waiting),
            EventStreamHandlers(readings, event_streams),
            LimitHandlers(gate),
            IntegrityHandlers(Rounds(database)),
            LedgerHandlers(Summaries(database)),
            WebhookHandlers(endpoints, destinations, books.rows),
            ApiKeyHandlers(database, defaults, books.rows),
            HealthHandlers(readiness),
            PageHandlers(openapi.document),
            ReferenceHandlers(Downloads()),
        )
        observer = Observer(tallies, settings.slow_ms / 1000, settings.log_sample, traces)
        origins = allowed_origins(settings)
        cors = Cors(origins) if origins else None
        pipeline = Pipeline(Router(bind(handlers)), callers, gate, observer, cors)
        uses.start()
        try:
            server = HttpServer(pipeline, readings.departures)
            parts = database, redis, books.counters, tallies, authenticator, gate, posting, readings, history
            yield App(server, readiness, *parts, books.feed, streams, event_streams, waiting, traces)
        finally:
            await readings.close()
            await uses.close()
            await gate.drain()
            await self_check.close()
            await sender.close()
            if traces is not None:
                await traces.close()
