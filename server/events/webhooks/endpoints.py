"""Endpoints of a ledger: its administrators create, read, change and remove them."""

from collections import Counter
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from server.events.feed import TYPES, Event, Feed, envelope
from server.events.webhooks.secrets import Vault, new_secret
from server.events.webhooks.sender import Answer, Message, Sender
from server.ledger.ids import new_transfer_id
from server.store.coalescer import QueueFullError
from server.store.postgres import Database

# Endpoints of a ledger: each is sent every event, and takes some connections and rows.
ENDPOINTS_OF_LEDGER_MAX: Final = 50
# Times that another caller may take a free place while an endpoint is created.
CREATE_ATTEMPTS_MAX: Final = 5
# Seconds for which an old secret signs beside the new one: time to bring the new one to all receivers.
OVERLAP_SECONDS: Final = 86_400
# Secrets that sign at once: a caller who has lost a new one asks again, and the one in use must not be dropped for
# that.
SECRETS_MAX: Final = 5
# Tests of endpoints that a worker makes at once, in all and for one ledger: each may take ten seconds.
TESTS_MAX: Final = 32
TESTS_OF_LEDGER_MAX: Final = 4
# The type of the message that tests an endpoint, which is no type of the feed.
TEST_TYPE: Final = "webhook.test"
# The outcomes of an attempt: the event has arrived, is retried, is given up, or its endpoint is disabled.
OUTCOMES: Final = ("delivered", "failed", "dead", "gone")


class Endpoint(NamedTuple):
    """An endpoint as the database has it."""

    id: UUID
    url: str
    # As bits of `TYPES`; 0 means all.
    types: int
    description: str | None
    # Why nothing is sent to it: `requested` or `gone`.
    disabled: str | None
    # Events up to here were sent, or wait for a retry.
    position: int
    replay: int
    version: int
    created_at: datetime
    # The secrets that sign, newest first, encrypted.
    secrets: list[bytes]

    @property
    def type_names(self) -> list[str]:
        """The types of events that the endpoint is sent; none means all."""
        return [name for name, bit in TYPES.items() if self.types & bit]


class Attempt(NamedTuple):
    """An attempt to deliver an event."""

    id: UUID
    position: int
    type: str
    # The first is 1.
    attempt: int
    # One of `OUTCOMES`.
    outcome: str
    status: int | None
    error: str | None
    attempted_at: datetime
    duration_ms: int
    answer: bytes


class Retry(NamedTuple):
    """An event that has not arrived."""

    position: int
    attempts: int
    attempted_at: datetime
    # None if it is not retried any more.
    due_at: datetime | None


class NotConfiguredError(Exception):
    """No key to encrypt secrets with is configured."""


class EndpointNotFoundError(Exception):
    """The ledger has no such endpoint."""


class PositionNotReachedError(Exception):
    """
    The feed has not reached the position that was named.

    Args:
        head: Newest position of the feed.
    """

    def __init__(self, head: int) -> None:
        super().__init__(head)
        self.head = head


class EndpointsFullError(Exception):
    """The ledger has as many endpoints as it may."""


class Change(NamedTuple):
    """What to change in an endpoint; None leaves a value unchanged."""

    url: str | None
    types: int | None
    # Whether there is a new description, which may be None.
    describes: bool
    description: str | None
    enabled: bool | None


class Endpoints:
    """
    Manages the endpoints of ledgers. Every method may raise QueueFullError, StoreError or DatabaseError.

    Args:
        database: Holds the endpoints.

        feed: Knows the names of ledgers and their newest positions.

        vault: Encrypts secrets; None if no key for them is configured.

        sender: Sends tests.
    """

    def __init__(self, database: Database, feed: Feed, vault: Vault | None, sender: Sender) -> None:
        self._database = database
        self._feed = feed
        self._kept = vault
        self._sender = sender
        self._tests: Counter[int] = Counter()

    @property
    def _vault(self) -> Vault:
        if self._kept is None:
            raise NotConfiguredError
        return self._kept

    async def create(self, ledger_id: int, url: str, types: int, description: str | None) -> tuple[Endpoint, bytes]:
        """
        Create an endpoint that is sent events from now on, and return it with its secret.

        Raises:
            NotConfiguredError: It could not be given a secret.
            EndpointsFullError: The ledger has too many endpoints.
        """
        secret = new_secret()
        sealed = self._vault.seal(secret)
        for _ in range(CREATE_ATTEMPTS_MAX):
            rows = await self._database.write_once(
                "webhook_endpoint_create",
                *(ledger_id, new_transfer_id(), url, types, description, sealed, ENDPOINTS_OF_LEDGER_MAX),
            )
            if rows:
                return _endpoint(rows), secret
            if len(await self.page(ledger_id, UUID(int=0), ENDPOINTS_OF_LEDGER_MAX)) == ENDPOINTS_OF_LEDGER_MAX:
                raise EndpointsFullError
        # Other callers took each free place: too many create endpoints at once.
        raise QueueFullError

    async def page(self, ledger_id: int, after: UUID, limit: int) -> list[Endpoint]:
        """Return up to *limit* endpoints after the id *after*, in the order of their creation."""
        rows = await self._database.read("webhook_endpoint_page", ledger_id, after, limit)
        return [Endpoint(*row.values()) for row in rows]

    async def read(self, ledger_id: int, endpoint_id: UUID) -> Endpoint:
        """
        Return an endpoint.

        Raises:
            EndpointNotFoundError: There is no such endpoint.
        """
        return _endpoint(await self._database.read("webhook_endpoint_read", ledger_id, endpoint_id))

    async def change(self, ledger_id: int, endpoint_id: UUID, change: Change) -> Endpoint:
        """
        Change an endpoint and return it. When it is enabled again, it continues where it was.

        Raises:
            EndpointNotFoundError: There is no such endpoint.
        """
        return _endpoint(await self._database.write("webhook_endpoint_change", ledger_id, endpoint_id, *change))

    async def delete(self, ledger_id: int, endpoint_id: UUID) -> None:
        """
        Remove an endpoint; a message in flight may still arrive there.

        Raises:
            EndpointNotFoundError: There is no such endpoint.
        """
        if not await self._database.write_once("webhook_endpoint_delete", ledger_id, endpoint_id):
            raise EndpointNotFoundError

    async def rotate(self, ledger_id: int, endpoint_id: UUID) -> tuple[Endpoint, bytes]:
        """
        Give an endpoint a new secret and return both; the old secret signs beside it for a day.

        Raises:
            NotConfiguredError: The secret could not be stored.
            EndpointNotFoundError: There is no such endpoint.
        """
        secret = new_secret()
        arguments = (self._vault.seal(secret), OVERLAP_SECONDS, SECRETS_MAX)
        rows = await self._database.write_once("webhook_endpoint_rotate", ledger_id, endpoint_id, *arguments)
        return _endpoint(rows), secret

    async def replay(self, ledger_id: int, endpoint_id: UUID, from_position: int) -> Endpoint:
        """
        Send an endpoint again everything that it was already sent from a position on, and return the endpoint.

        Raises:
            EndpointNotFoundError: There is no such endpoint.
            PositionNotReachedError: The feed has not reached the position.
        """
        await self.read(ledger_id, endpoint_id)
        head = (await self._feed.heads([ledger_id]))[ledger_id]
        # Right after the newest position there is nothing to send again; further on there is no position to start at.
        if from_position - 1 > head:
            raise PositionNotReachedError(head)
        rows = await self._database.write("webhook_endpoint_replay", ledger_id, endpoint_id, from_position)
        return _endpoint(rows)

    async def test(self, ledger_id: int, endpoint_id: UUID) -> Answer:
        """
        Send an endpoint a message that only says that it is a test, even while the endpoint is disabled.

        Raises:
            NotConfiguredError, UnreadableSecretError: The message could not be signed.
            EndpointNotFoundError: There is no such endpoint.
            QueueFullError: Too many endpoints are being tested.
        """
        vault = self._vault
        endpoint = await self.read(ledger_id, endpoint_id)
        secrets = vault.open(endpoint.secrets)
        ledger = await self._feed.ledger_name(ledger_id)
        if self._tests.total() >= TESTS_MAX or self._tests[ledger_id] >= TESTS_OF_LEDGER_MAX:
            raise QueueFullError
        self._tests[ledger_id] += 1
        try:
            return await self._sender.send(endpoint.url, _test_message(ledger, endpoint_id), secrets)
        finally:
            self._tests[ledger_id] -= 1
            self._tests += Counter()

    async def attempts(self, ledger_id: int, endpoint_id: UUID, before: UUID, limit: int) -> list[Attempt]:
        """
        Return up to *limit* recent attempts before the one with the id *before*, newest first.

        Raises:
            EndpointNotFoundError: There is no such endpoint.
        """
        rows = await self._database.read("webhook_attempt_page", ledger_id, endpoint_id, before, limit)
        if not rows:
            await self.read(ledger_id, endpoint_id)
        return [Attempt(*row.values()) for row in rows]

    async def undelivered(self, ledger_id: int, endpoint_id: UUID, after: int, limit: int) -> list[Retry]:
        """
        Return up to *limit* events after the position *after* that have not arrived, in order.

        Raises:
            EndpointNotFoundError: There is no such endpoint.
        """
        rows = await self._database.read("webhook_retry_page", ledger_id, endpoint_id, after, limit)
        if not rows:
            await self.read(ledger_id, endpoint_id)
        return [Retry(*row.values()) for row in rows]


def _endpoint(rows: list[asyncpg.Record]) -> Endpoint:
    if not rows:
        raise EndpointNotFoundError
    return Endpoint(*rows[0].values())


def _test_message(ledger: str, endpoint_id: UUID) -> Message:
    """Return a message that no receiver takes for an earlier one: its id is not that of an event."""
    event = Event(0, TEST_TYPE, str(endpoint_id), (), datetime.now(UTC), b"{}")
    message_id = f"{ledger}/test-{new_transfer_id()}"
    body = {**msgspec.json.decode(envelope(event, ledger)), "id": message_id}
    return Message(message_id, msgspec.json.encode(body))
