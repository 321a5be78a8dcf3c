"""Handlers of webhook endpoints."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Final, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from server.events.feed import TYPES
from server.events.webhooks.addresses import URL_LENGTH_MAX, Destinations
from server.events.webhooks.endpoints import (
    Attempt,
    Change,
    Endpoint,
    EndpointNotFoundError,
    Endpoints,
    EndpointsFullError,
    NotConfiguredError,
    PositionNotReachedError,
    Retry,
)
from server.events.webhooks.secrets import UnreadableSecretError, shown
from server.http.call import Call
from server.http.cursors import Version, read_cursor
from server.http.headers import NO_STORE
from server.http.listing import page
from server.http.members import Count, EventName, Instant, Position, Uuid
from server.http.models import Description, Strict
from server.http.problems import Problem, invalid, not_reached
from server.http.query import PageQuery, Query
from server.http.render import instant
from server.http.reply import Reply
from server.ledger.limits import BALANCE_MAX
from server.ledger.row_locks import RowLocks

EventType = Literal[
    "transfer.posted",
    "transfer.refused",
    "hold.created",
    "hold.captured",
    "hold.voided",
    "hold.expired",
    "transfer.reversed",
    "account.created",
    "account.updated",
    "account.closed",
]
Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=URL_LENGTH_MAX,
        description="HTTPS URL to which events are sent, without a user and a fragment. HTTP is allowed in networks "
        "that the operator has listed.",
        examples=["https://example.com/webhooks"],
        extra_json_schema={"format": "uri"},
    ),
]
Types = Annotated[
    list[EventType], Meta(max_length=len(TYPES), description="Types of events to send. An empty list means all.")
]

WebhookId = Annotated[
    str,
    Meta(
        description="Id of the endpoint.",
        examples=["019b76da-a800-7000-8000-000000000002"],
        extra_json_schema={"format": "uuid"},
    ),
]

DisabledReason = Annotated[
    str,
    Meta(
        description="Why the endpoint is disabled: `gone` means that it answered 410.",
        extra_json_schema={"enum": ["requested", "gone"]},
    ),
]
# Parts of an endpoint's answer to a delivery.
Answered = Annotated[
    int, Meta(description="HTTP status of the endpoint's answer; null if there was none.", examples=[204])
]
Failure = Annotated[str, Meta(description="Why there was no answer; null if there was one.")]
FirstBytes = Annotated[str, Meta(description="First bytes of the endpoint's answer.")]

# The lowest and the highest id.
_ID_MIN: Final = UUID(int=0)
_ID_MAX: Final = UUID(int=2**128 - 1)

_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


class WebhookCreate(Strict, kw_only=True):
    """An endpoint to make."""

    url: Url
    types: Types = msgspec.field(default_factory=list)
    description: Description | None = None


class WebhookPatch(Strict, kw_only=True):
    """A change of an endpoint. When it is enabled again, it continues where it stopped."""

    url: Url | UnsetType = UNSET
    types: Types | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    state: Literal["enabled", "disabled"] | UnsetType = UNSET


class WebhookReplay(Strict, kw_only=True):
    """The position from which an endpoint is sent its events again."""

    from_position: Annotated[int, Meta(ge=1, le=BALANCE_MAX)]


class WebhookAction(Strict, kw_only=True):
    """An action on an endpoint, which has no parameters."""


class WebhookBody(msgspec.Struct, gc=False):
    """An endpoint."""

    id: Uuid
    url: Annotated[str, Meta(examples=["https://example.com/webhooks"])]
    types: Annotated[list[EventName], Meta(description="Types of events that are sent. An empty list means all.")]
    description: str | None
    state: Annotated[str, Meta(extra_json_schema={"enum": ["enabled", "disabled"]})]
    disabled_reason: DisabledReason | None
    position: Annotated[Position, Meta(description="Position up to which all events were sent or wait for a retry.")]
    created_at: Instant


class WebhookSecretBody(WebhookBody, kw_only=True, gc=False):
    """An endpoint with its secret, which is shown once."""

    secret: Annotated[str, Meta(description="Secret in the form of Standard Webhooks. It is not shown again.")]


class WebhookDeleted(msgspec.Struct, gc=False):
    """An endpoint that has been removed."""

    id: Uuid
    deleted: bool = True


class WebhookTested(msgspec.Struct, gc=False):
    """The result of a test."""

    delivered: bool
    status: Answered | None
    error: Failure | None
    duration_ms: Count
    answer: FirstBytes


class DeliveryBody(msgspec.Struct, gc=False):
    """An attempt to deliver an event."""

    position: Position
    type: EventName
    attempt: Annotated[Count, Meta(description="Number of the attempt; the first is 1.")]
    outcome: Annotated[
        str,
        Meta(
            description="`failed` is retried, `dead` is not. With `gone` the endpoint was disabled.",
            extra_json_schema={"enum": ["delivered", "failed", "dead", "gone"]},
        ),
    ]
    status: Answered | None
    error: Failure | None
    attempted_at: Instant
    duration_ms: Count
    answer: FirstBytes


class UndeliveredBody(msgspec.Struct, gc=False):
    """An event that has not arrived."""

    position: Position
    state: Annotated[
        str, Meta(description="`waiting` is retried, `dead` is not.", extra_json_schema={"enum": ["waiting", "dead"]})
    ]
    attempts: Count
    attempted_at: Instant
    next_attempt_at: Instant | None


class WebhookHandlers:
    """
    Handlers of webhook endpoints.

    Args:
        endpoints: Stores the endpoints.

        destinations: Decides which URLs are allowed.

        rows: Knows the locked accounts; requests wait for locked endpoints beside those that wait for them.
    """

    def __init__(self, endpoints: Endpoints, destinations: Destinations, rows: RowLocks) -> None:
        self._endpoints = endpoints
        self._destinations = destinations
        self._rows = rows.beside("webhook_endpoint_locked_many")

    async def create_webhook_endpoint(self, call: Call, body: WebhookCreate) -> Reply:
        """Make an endpoint, and answer with its secret."""
        self._check_url(body.url)
        with _refusals():
            made = await self._endpoints.create(call.ledger_id, body.url, _bits(body.types), body.description)
        return _told(201, *made)

    async def list_webhook_endpoints(self, call: Call, query: PageQuery) -> Reply:
        """List the endpoints of the ledger, oldest first."""
        after = _ID_MIN if query.cursor is None else read_cursor(query.cursor, UUID)
        found = await self._endpoints.page(call.ledger_id, after, query.limit + 1)
        return page(found, query.limit, _shown, lambda endpoint: endpoint.id)

    async def get_webhook_endpoint(self, call: Call, _query: Query) -> Reply:
        """Answer with an endpoint."""
        with _refusals():
            return Reply(200, _shown(await self._endpoints.read(call.ledger_id, _named(call))))

    async def patch_webhook_endpoint(self, call: Call, body: WebhookPatch) -> Reply:
        """Change an endpoint."""
        if body.url is not UNSET:
            self._check_url(body.url)
        change = Change(
            None if body.url is UNSET else body.url,
            None if body.types is UNSET else _bits(body.types),
            body.description is not UNSET,
            None if body.description is UNSET else body.description,
            None if body.state is UNSET else body.state == "enabled",
        )
        with _refusals():
            return Reply(200, _shown(await self._write(call, partial(self._endpoints.change, change=change))))

    async def delete_webhook_endpoint(self, call: Call, _body: WebhookAction) -> Reply:
        """Remove an endpoint."""
        with _refusals():
            await self._write(call, self._endpoints.delete)
        return Reply(200, _encode(WebhookDeleted(str(_named(call)))))

    async def rotate_webhook_secret(self, call: Call, _body: WebhookAction) -> Reply:
        """Give an endpoint a new secret, and answer with it."""
        with _refusals():
            return _told(200, *await self._write(call, self._endpoints.rotate))

    async def send_webhook_test(self, call: Call, _body: WebhookAction) -> Reply:
        """Send an endpoint a test, and answer with the result."""
        # The test may take seconds, and the worker only waits for it.
        call.release_place()
        with _refusals():
            answer = await self._endpoints.test(call.ledger_id, _named(call))
        tested = WebhookTested(answer.delivered, answer.status, answer.error, answer.duration_ms, _text(answer.body))
        return Reply(200, _encode(tested))

    async def replay_webhook_endpoint(self, call: Call, body: WebhookReplay) -> Reply:
        """Send an endpoint its events again, from a position on."""
        with _refusals():
            moved = await self._write(call, partial(self._endpoints.replay, from_position=body.from_position))
        return Reply(200, _shown(moved))

    async def list_webhook_deliveries(self, call: Call, query: PageQuery) -> Reply:
        """List the latest attempts to deliver, newest first."""
        before = _ID_MAX if query.cursor is None else read_cursor(query.cursor, UUID)
        with _refusals():
            found = await self._endpoints.attempts(call.ledger_id, _named(call), before, query.limit + 1)
        return page(found, query.limit, _delivery, lambda attempt: attempt.id)

    async def list_undelivered_events(self, call: Call, query: PageQuery) -> Reply:
        """List the undelivered events, in the order of the feed."""
        after = 0 if query.cursor is None else read_cursor(query.cursor, Version)
        with _refusals():
            found = await self._endpoints.undelivered(call.ledger_id, _named(call), after, query.limit + 1)
        return page(found, query.limit, _undelivered, lambda retry: retry.position)

    async def _write(self, call: Call, write: Callable[[int, UUID], Awaitable[T]]) -> T:
        """Write the endpoint in the path, without the request's place while another transaction keeps it locked."""
        endpoint_id = _named(call)
        statement = partial(write, call.ledger_id, endpoint_id)
        return await self._rows.write(call.ledger_id, str(endpoint_id), statement, call.release_place)

    def _check_url(self, url: str) -> None:
        try:
            self._destinations.check_url(url)
        except ValueError as error:
            raise invalid("/url", str(error)) from None


@contextmanager
def _refusals() -> Iterator[None]:
    """
    Turn errors of `Endpoints` into problems.

    Raises:
        Problem: The body raised such an error.
    """
    try:
        yield
    except EndpointNotFoundError:
        raise Problem("webhook_endpoint_not_found") from None
    except EndpointsFullError:
        raise Problem("webhook_endpoints_full") from None
    except PositionNotReachedError as error:
        raise not_reached(error.head) from None
    except (NotConfiguredError, UnreadableSecretError):
        raise Problem("webhooks_not_configured") from None


def _named(call: Call) -> UUID:
    """
    Return the id in the path.

    Raises:
        Problem: The text in the path is not an id.
    """
    name = call.names[0]
    try:
        found = UUID(name)
    except ValueError:
        raise Problem("webhook_endpoint_not_found") from None
    # UUID() also takes braces, a prefix, and hyphens anywhere.
    if str(found) != name.lower():
        raise Problem("webhook_endpoint_not_found")
    return found


def _bits(types: list[EventType]) -> int:
    return sum(TYPES[name] for name in set(types))


def _body(endpoint: Endpoint) -> WebhookBody:
    return WebhookBody(
        str(endpoint.id),
        endpoint.url,
        endpoint.type_names,
        endpoint.description,
        "enabled" if endpoint.disabled is None else "disabled",
        endpoint.disabled,
        endpoint.position,
        instant(endpoint.created_at),
    )


def _shown(endpoint: Endpoint) -> bytes:
    return _encode(_body(endpoint))


def _told(status: int, endpoint: Endpoint, secret: bytes) -> Reply:
    """Return the reply with an endpoint and its secret."""
    body = WebhookSecretBody(**msgspec.structs.asdict(_body(endpoint)), secret=shown(secret))
    return Reply(status, _encode(body), headers=NO_STORE)


def _delivery(attempt: Attempt) -> bytes:
    return _encode(
        DeliveryBody(
            attempt.position,
            attempt.type,
            attempt.attempt,
            attempt.outcome,
            attempt.status,
            attempt.error,
            instant(attempt.attempted_at),
            attempt.duration_ms,
            _text(attempt.answer),
        )
    )


def _undelivered(retry: Retry) -> bytes:
    return _encode(
        UndeliveredBody(
            retry.position,
            "dead" if retry.due_at is None else "waiting",
            retry.attempts,
            instant(retry.attempted_at),
            None if retry.due_at is None else instant(retry.due_at),
        )
    )


def _text(answer: bytes) -> str:
    """Return the first bytes of an answer as text, even if they are not valid UTF-8."""
    return answer.decode(errors="replace")
