"""The only place where the parts meet."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from server.gate.keys import Authenticator
from server.http.parts import Parts
from server.http.runtime import runtime_failures
from server.http.server import HttpServer
from server.ledger.accounts import Accounts
from server.ledger.history import History
from server.ledger.posting import PostingLane
from server.settings import Settings
from server.store.postgres import Database
from server.store.readiness import Readiness
from server.telemetry.failpoints import Failpoints

# Seconds that running postings get to be resolved when the service stops: a little more than their own deadline.
DRAIN_SECONDS = 6.0

log = logging.getLogger(__name__)


class App(NamedTuple):
    """A service that can be given connections."""

    server: HttpServer
    readiness: Readiness


@asynccontextmanager
async def create_app(settings: Settings) -> AsyncIterator[App]:
    """
    Make the service and close it in reverse: what was posted is resolved before the pools go.

    Args:
        settings: With a `database_url`; the schema need not be there, and Postgres need not run.
    """
    assert settings.database_url is not None, "the caller decides between an address and the embedded servers"
    async with Database(
        settings.database_url,
        posting_connections=settings.posting_connections,
        reading_connections=settings.reading_connections,
    ) as database:
        accounts = Accounts(database)
        posting = PostingLane(database, Failpoints(settings.failpoints))
        readiness = Readiness(database, runtime_failures())
        parts = Parts(Authenticator(database), accounts, posting, History(database, accounts), readiness)
        try:
            yield App(HttpServer(parts), readiness)
        finally:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await posting.drain()
                    await accounts.drain()
            except TimeoutError:
                log.warning("stopping with unresolved postings: their callers retry with the same key")
