"""Operations of administrators: webhook endpoints and API keys."""

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
# Seconds that one attempt to test an endpoint may take; the endpoint has 10 s to answer.
TEST_SECONDS_MAX = 20.0


class WebhookEndpoint(Answered, frozen=True):
    """
    A URL that events are sent to.

    Attributes:
        types: Types of the events to send; empty for all.

        state: `enabled` or `disabled`; if disabled, `disabled_reason` says why.

        position: Events up to this position were sent or wait for a retry.

        secret: Present only in the answers of `create` and `rotate_secret`, and left out of `repr`.
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
    """Something that was deleted."""

    id: str
    deleted: bool


class WebhookTest(Answered, frozen=True):
    """The result of a test of an endpoint: a status or an error, and the first bytes of the answer."""

    delivered: bool
    status: int | None
    error: str | None
    duration_ms: int
    answer: str


class Delivery(Answered, frozen=True):
    """An attempt to deliver an event; it was `delivered`, `failed` (to be retried), `dead` (given up) or `gone`."""

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
    """An event that was not delivered; it is `waiting` for a retry or `dead`."""

    position: int
    state: str
    attempts: int
    attempted_at: datetime
    next_attempt_at: datetime | None


class ApiKey(Answered, frozen=True):
    """
    An API key of the ledger.

    Attributes:
        role: `read`, `write` or `admin`.

        accounts: Prefixes of the account ids that the key can see; None for the whole ledger.

        rate: For example `100/s`. None means the service's default, also for `burst` and `concurrency`.

        last_used_at: Exact to the minute.

        previous_tokens_until: When the last of its earlier tokens ends; None if none of them works.

        token: The token that callers send; present only in the answers of `create` and `rotate`, and left out of
            `repr`.
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
    """Operations on webhook endpoints; they need a key with the role admin."""

    @operation
    def create(
        self, url: str, *, types: Sequence[str] = (), description: str | None = None
    ) -> Request[WebhookEndpoint]:
        """Make an endpoint and return it with its secret, which is shown only once; no types means all events."""
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
        """Change the given fields of an endpoint; one that is enabled again continues from its position."""
        body = changes(url=url, types=types, description=description, state=state)
        return _change("PATCH", f"{ENDPOINTS}/{segment(id)}", WebhookEndpoint, body)

    @operation
    def delete(self, id: str) -> Request[Deleted]:  # noqa: A002
        """Delete an endpoint with the records of its deliveries."""
        return _change("DELETE", f"{ENDPOINTS}/{segment(id)}", Deleted)

    @operation
    def rotate_secret(self, id: str) -> Request[WebhookEndpoint]:  # noqa: A002
        """Give an endpoint a new secret and return both; for 24 hours webhooks are signed with the old one too."""
        return _post(f"{ENDPOINTS}/{segment(id)}/rotate-secret", WebhookEndpoint, {})

    @operation
    def test(self, id: str) -> Request[WebhookTest]:  # noqa: A002
        """Send an endpoint a test event, and return the result."""
        return _post(f"{ENDPOINTS}/{segment(id)}/test", WebhookTest, {}, TEST_SECONDS_MAX)

    @operation
    def replay(self, id: str, from_position: int) -> Request[WebhookEndpoint]:  # noqa: A002
        """Send an endpoint all events from a position on again, in order."""
        path = f"{ENDPOINTS}/{segment(id)}/replay"
        return _change("POST", path, WebhookEndpoint, {"from_position": from_position})

    @series
    def deliveries(self, id: str) -> Pages[Delivery]:  # noqa: A002
        """Iterate over the recent attempts to deliver, newest first."""
        return Pages(get(f"{ENDPOINTS}/{segment(id)}/deliveries", Page[Delivery], limit=PAGE_ROWS))

    @series
    def undelivered(self, id: str) -> Pages[Undelivered]:  # noqa: A002
        """Iterate over the events that were not delivered, in the order of the feed."""
        return Pages(get(f"{ENDPOINTS}/{segment(id)}/undelivered", Page[Undelivered], limit=PAGE_ROWS))


class ApiKeys(Resource[D]):
    """Operations on the API keys of the ledger; they need a key with the role admin."""

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
        Make a key and return it with its token, which is shown only once.

        Args:
            role: What the key may do.

            description: A text for people.

            expires_at: When the key expires.

            accounts: Prefixes of the account ids that the key can see; all other accounts do not exist for it.

            rate: Requests per period, for example `100/s`.

            burst: Requests that it may make at once.

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
        """Change the given fields of a key; None removes its own value."""
        limits = changes(rate=rate, burst=burst, concurrency=concurrency)
        body = {**changes(description=description, expires_at=expires_at, accounts=accounts), **limits}
        return _change("PATCH", f"{KEYS}/{segment(id)}", ApiKey, body)

    @operation
    def rotate(self, id: str, *, overlap_seconds: int | None = None) -> Request[ApiKey]:  # noqa: A002
        """Give a key a new token and return both; its old tokens work for *overlap_seconds* more, by default a day."""
        return _post(f"{KEYS}/{segment(id)}/rotate", ApiKey, members(overlap_seconds=overlap_seconds))

    @operation
    def revoke(self, id: str) -> Request[ApiKey]:  # noqa: A002
        """Revoke a key for ever."""
        return _change("DELETE", f"{KEYS}/{segment(id)}", ApiKey)


def _post(path: str, answer: type[T], body: Mapping[str, object], seconds_max: float = 10.0) -> Request[T]:
    """Return a write that must not be sent again, because it would be done twice."""
    return Request(method="POST", path=path, answer=answer, body=body, repeat=Repeat.NOTHING, seconds_max=seconds_max)


def _change(method: str, path: str, answer: type[T], body: Mapping[str, object] | None = None) -> Request[T]:
    """Return a write that may be sent again, because it has the same result."""
    return Request(method=method, path=path, answer=answer, body=body, repeat=Repeat.KEYED)
