"""The two clients, blocking and for asyncio. Their operations are written once, in the resources."""

import math
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

from tallystick_client.about import Integrity, Ledger, Limits
from tallystick_client.accounts import Accounts
from tallystick_client.administration import ApiKeys, WebhookEndpoints
from tallystick_client.answers import TrialBalance
from tallystick_client.drivers import AsyncDriver, BlockingDriver
from tallystick_client.events import Events
from tallystick_client.operations import D, Resource, operation
from tallystick_client.request import Request, get
from tallystick_client.rules import Rules
from tallystick_client.transfers import IdempotencyKeys, Transfers

T = TypeVar("T")

URL = "http://127.0.0.1:8080"
# Seconds that a call may take with all its attempts: longer than a failover of the database.
DEADLINE_SECONDS = 30.0
# Most connections at once; further calls wait for one.
CONNECTIONS_MAX = 20
# Seconds that one attempt to sum millions of accounts may take; the server gives up after 30.
BALANCES_SECONDS_MAX = 40.0


class Client(Resource[D]):
    """The operations of both clients."""

    def __init__(self, driver: D) -> None:
        super().__init__(driver)
        self.accounts = Accounts(driver)
        self.transfers = Transfers(driver)
        self.idempotency_keys = IdempotencyKeys(driver)
        self.events = Events(driver)
        self.webhook_endpoints = WebhookEndpoints(driver)
        self.api_keys = ApiKeys(driver)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._driver.url!r})"

    @operation
    def balances(self, *, prefix: str | None = None, at: datetime | None = None) -> Request[TrialBalance]:
        """Return the sums of the balances of all accounts whose ids begin with *prefix*, now or at an instant."""
        return get("/v1/balances", TrialBalance, BALANCES_SECONDS_MAX, prefix=prefix, at=at)

    @operation
    def limits(self) -> Request[Limits]:
        """Return what remains of the limits of the key; this call uses up nothing."""
        return get("/v1/limits", Limits)

    @operation
    def integrity(self) -> Request[Integrity]:
        """Return the auditor's report on the ledger; this needs a key with the role admin."""
        return get("/v1/integrity", Integrity)

    @operation
    def ledger(self) -> Request[Ledger]:
        """Return the name of the ledger, the number of its rows and the limits in force."""
        return get("/v1/ledger", Ledger)

    @operation
    def send(self, request: Request[T]) -> Request[T]:
        """Send a request again, such as that of an OutcomeUnknownError; under the same key it is done at most once."""
        return request


class Tallystick(Client[BlockingDriver]):
    """
    A client that blocks; threads may share one.

    Args:
        url: The address of the server.

        api_key: The token of an API key of the ledger.

        deadline_seconds: The time a call may take, with all its attempts and pauses.

        connections_max: Most connections at once.
    """

    def __init__(
        self,
        url: str = URL,
        api_key: str = "",
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        super().__init__(BlockingDriver(url, api_key, _rules(deadline_seconds), connections_max))

    def close(self) -> None:
        """Close all connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncTallystick(Client[AsyncDriver]):
    """
    A client for asyncio; tasks may share one.

    Args:
        url: The address of the server.

        api_key: The token of an API key of the ledger.

        deadline_seconds: The time a call may take, with all its attempts and pauses.

        connections_max: Most connections at once.
    """

    def __init__(
        self,
        url: str = URL,
        api_key: str = "",
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        super().__init__(AsyncDriver(url, api_key, _rules(deadline_seconds), connections_max))

    async def close(self) -> None:
        """Close all connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _rules(deadline_seconds: float) -> Rules:
    if not 0 < deadline_seconds < math.inf:
        raise ValueError("a deadline must be a number of seconds above 0")
    return Rules(deadline_seconds)
