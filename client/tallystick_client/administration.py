"""What administrators do over HTTP: webhook endpoints and API keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeVar

from msgspec import UNSET, UnsetType

from tallystick_client.accounts import PAGE_ROWS
from tallystick_client.answers import Answered, Page
from tallystick_client.operations import D, Pages, Resource, operation, series
from tallystick_client.request import Repeat, Request, changes, get, members, segment

T = TypeVar("T")

ENDPOINTS = "/v1/webhook-endpoints"
KEYS = "/v1/api-keys"
# Seconds for the test of an endpoint, which has 10 s to answer.
TEST_SECONDS_MAX = 20.0


class WebhookEndpoint(Answered, frozen=True):
    """
    A URL that events are sent to.

    Attributes:
        types: Names of events; empty for all.

        state: `enabled` or `disabled`; then `disabled_reason` says why.

        position: Events up to here were sent, or wait for a retry.

        secret: Shown only by `create` and `rotate_secret`, and left out of `repr`.
    """

    id: str
    url: str
    types: list[str]
    description: str | None
    state: str
    disabled_reason: str | None
    position: int
    created_at: datetime
    secret: str | None = None

    def __repr__(self) -> str:
        return f"WebhookEndpoint(id={self.id!r}, url={self.url!r}, state={self.state!r})"


class Deleted(Answered, frozen=True):
    """Something that is there no more."""

    id: str
    deleted: bool


class WebhookTest(Answered, frozen=True):
    """What came of a test of an endpoint: a status or an error, and the first bytes of the answer."""

    delivered: bool
    status: int | None
    error: str | None
    duration_ms: int
    answer: str


class Delivery(Answered, frozen=True):
    """An attempt to deliver an event: `delivered`, `failed` (tried again), `dead` (given up) or `gone`."""

    position: int
    type: str
    attempt: int
    outcome: str
    status: int | None
    error: str | None
    attempted_at: datetime
    duration_ms: int
    answer: str


class Undelivered(Answered, frozen=True):
    """An event that has not arrived: `waiting` or `dead`."""

    position: int
    state: str
    attempts: int
    attempted_at: datetime
    next_attempt_at: datetime | None


class ApiKey(Answered, frozen=True):
    """
    A key of the ledger.

    Attributes:
        role: `read`, `write` or `admin`.

        accounts: Prefixes of the accounts that it sees; None for all of the ledger.

        rate: As `100/s`; None, as in `burst` and `concurrency`, for what the service gives every key.

        last_used_at: To the minute.

        previous_tokens_until: When the last of the tokens that were replaced ends; None where none works.

        token: What callers send; shown only by `create` and `rotate`, and left out of `repr`.
    """

    id: str
    role: str
    description: str | None
    accounts: list[str] | None
    rate: str | None
    burst: int | None
    concurrency: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous_tokens_until: datetime | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"ApiKey(id={self.id!r}, role={self.role!r})"


class WebhookEndpoints(Resource[D]):
    """What can be done with webhook endpoints, by keys of the role admin."""

    @operation
    def create(
        self, url: str, *, types: Sequence[str] = (), description: str | None = None
    ) -> Request[WebhookEndpoint]:
        """Make an endpoint and return it with its secret, which is shown this once; no types means all."""
        return _post(ENDPOINTS, WebhookEndpoint, {"url": url, "types": types, "description": description})

    @series
    def list(self) -> Pages[WebhookEndpoint]:
        """Iterate over all endpoints, in the order in which they were made."""
        return Pages(get(ENDPOINTS, Page[WebhookEndpoint], limit=PAGE_ROWS))

    @operation
    def get(self, id: str) -> Request[WebhookEndpoint]:  # noqa: A002 -- what the ledger calls it
        """Return an endpoint."""
        return get(f"{ENDPOINTS}/{segment(id)}", WebhookEndpoint)

    @operation
    def update(
        self,
        id: str,  # noqa: A002
        *,
        url: str | UnsetType = UNSET,
        types: Sequence[str] | UnsetType = UNSET,
        description: str | UnsetType | None = UNSET,
        state: Literal["enabled", "disabled"] | UnsetType = UNSET,
    ) -> Request[WebhookEndpoint]:
        """Change what is given of an endpoint; enabled again, it goes on where it was."""
        body = changes(url=url, types=types, description=description, state=state)
        return _change("PATCH", f"{ENDPOINTS}/{segment(id)}", WebhookEndpoint, body)

    @operation
    def delete(self, id: str) -> Request[Deleted]:  # noqa: A002
        """Remove an endpoint with all that is known of it."""
        return _change("DELETE", f"{ENDPOINTS}/{segment(id)}", Deleted)

    @operation
    def rotate_secret(self, id: str) -> Request[WebhookEndpoint]:  # noqa: A002
        """Return an endpoint with a new secret; the one before signs beside it for 24 hours."""
        return _post(f"{ENDPOINTS}/{segment(id)}/rotate-secret", WebhookEndpoint, {})

    @operation
    def test(self, id: str) -> Request[WebhookTest]:  # noqa: A002
        """Send an endpoint a test event, and return what came of it."""
        return _post(f"{ENDPOINTS}/{segment(id)}/test", WebhookTest, {}, TEST_SECONDS_MAX)

    @operation
    def replay(self, id: str, from_position: int) -> Request[WebhookEndpoint]:  # noqa: A002
        """Have an endpoint sent everything from a position on again, in order."""
        path = f"{ENDPOINTS}/{segment(id)}/replay"
        return _change("POST", path, WebhookEndpoint, {"from_position": from_position})

    @series
    def deliveries(self, id: str) -> Pages[Delivery]:  # noqa: A002
        """Iterate over the attempts of late, newest first."""
        return Pages(get(f"{ENDPOINTS}/{segment(id)}/deliveries", Page[Delivery], limit=PAGE_ROWS))

    @series
    def undelivered(self, id: str) -> Pages[Undelivered]:  # noqa: A002
        """Iterate over the events that have not arrived, in their order."""
        return Pages(get(f"{ENDPOINTS}/{segment(id)}/undelivered", Page[Undelivered], limit=PAGE_ROWS))


class ApiKeys(Resource[D]):
    """What can be done with the API keys of the ledger, by keys of the role admin."""

    @operation
    def create(
        self,
        role: Literal["read", "write", "admin"],
        *,
        description: str | None = None,
        expires_at: datetime | None = None,
        accounts: Sequence[str] | None = None,
        rate: str | None = None,
        burst: int | None = None,
        concurrency: int | None = None,
    ) -> Request[ApiKey]:
        """
        Make a key and return it with its token, which is shown this once.

        Args:
            role: What it may do.

            description: For people.

            expires_at: When it ends by itself.

            accounts: Prefixes of the accounts that it sees; to it, everything else is not there.

            rate: Requests a period, as `100/s`.

            burst: Requests at once.

            concurrency: Requests that may run at once.
        """
        limits = members(rate=rate, burst=burst, concurrency=concurrency)
        about = members(description=description, expires_at=expires_at, accounts=accounts)
        return _post(KEYS, ApiKey, {"role": role, **about, **limits})

    @series
    def list(self) -> Pages[ApiKey]:
        """Iterate over all keys."""
        return Pages(get(KEYS, Page[ApiKey], limit=PAGE_ROWS))

    @operation
    def get(self, id: str) -> Request[ApiKey]:  # noqa: A002
        """Return a key."""
        return get(f"{KEYS}/{segment(id)}", ApiKey)

    @operation
    def update(
        self,
        id: str,  # noqa: A002
        *,
        description: str | UnsetType | None = UNSET,
        expires_at: datetime | UnsetType | None = UNSET,
        accounts: Sequence[str] | UnsetType | None = UNSET,
        rate: str | UnsetType | None = UNSET,
        burst: int | UnsetType | None = UNSET,
        concurrency: int | UnsetType | None = UNSET,
    ) -> Request[ApiKey]:
        """Change what is given of a key; a None takes away what it has of its own."""
        limits = changes(rate=rate, burst=burst, concurrency=concurrency)
        body = {**changes(description=description, expires_at=expires_at, accounts=accounts), **limits}
        return _change("PATCH", f"{KEYS}/{segment(id)}", ApiKey, body)

    @operation
    def rotate(self, id: str, *, overlap_seconds: int | None = None) -> Request[ApiKey]:  # noqa: A002
        """Return a key with a new token; those before it work for *overlap_seconds* more, or else for a day."""
        return _post(f"{KEYS}/{segment(id)}/rotate", ApiKey, members(overlap_seconds=overlap_seconds))

    @operation
    def revoke(self, id: str) -> Request[ApiKey]:  # noqa: A002
        """End a key for ever."""
        return _change("DELETE", f"{KEYS}/{segment(id)}", ApiKey)


def _post(path: str, answer: type[T], body: Mapping[str, object], seconds_max: float = 10.0) -> Request[T]:
    """Return a write that would be done again if it were sent again."""
    return Request(method="POST", path=path, answer=answer, body=body, repeat=Repeat.NOTHING, seconds_max=seconds_max)


def _change(method: str, path: str, answer: type[T], body: Mapping[str, object] | None = None) -> Request[T]:
    """Return a write that comes to the same if it is sent again."""
    return Request(method=method, path=path, answer=answer, body=body, repeat=Repeat.KEYED)
