"""The declaration of a route."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from server.gate.gate import LookUp
from server.gate.keys import Role
from server.http.query import Query
from server.http.reply import Reply

# The codes of problems that every route can answer, and those added by routes with a key and by routes with a body.
_ANY: Final = (
    *("malformed_request", "invalid_request", "request_timeout"),
    *("quota_exceeded", "overloaded", "unavailable", "internal_error"),
)
_WITH_KEY: Final = ("unauthorized", "forbidden", "cost_exceeds_capacity")
_WITH_BODY: Final = ("body_too_large", "unsupported_media_type")

# In a path, stands for one segment.
NAME: Final = "{id}"

# Takes the call and its decoded body or query; while it is not bound, the object of the handler class comes first.
Handler = Callable[..., Awaitable[Reply]]


class Text(NamedTuple):
    """
    An answer that is not JSON.

    Attributes:
        media_type: The media type without parameters.

        description: What the answer holds.

        schema: The JSON Schema of the answer, or of one piece of it: an event of a stream.
    """

    media_type: str
    description: str
    schema: Mapping[str, Any] = MappingProxyType({"type": "string"})


class Route(NamedTuple):
    """
    A route, as the dispatcher, the OpenAPI document and the tests use it.

    Attributes:
        method: The HTTP method; a GET route answers HEAD too.

        path: The path, with `{id}` for a segment that callers choose.

        role: The lowest role that a key needs; None if the route is open to all without a key.

        handler: A method of a handler class. Its name is the id of the operation.

        summary: What the route does, for callers: a few words that begin with a verb.

        tag: The section of the reference that lists the route.

        name: The type of the text in the path at `{id}`, with a description and an example.

        query: The type of a read's query parameters.

        body: The type of a write's body.

        examples: Example bodies by title. Each one, sent to a ledger in its first state, gets the first of `answers`.

        fields: Header fields that the route takes, from `server.http.openapi.fields`, besides those of every route.

        answers: The types of successful answers by status: a tuple if there are several types, a `Text` if the answer
            is not JSON, None if it has no body.

        problems: Codes that this route can answer, besides those of every route.

        bodiless: Whether a write may leave its body out, because every member has a default.

        narrowed: Whether a key that is narrowed to accounts may use the route. It is shown nothing of other accounts.

        keyless: Why a write needs no Idempotency-Key: the text for a caller that sends one.

        items: For a bulk: the member of the body whose items cost a token each.

        cost: Returns how many tokens a request costs, for a route without `items` where it is not always one.

        make_room: For a bulk: waits for room for the transfers of its body, which is not decoded yet.

        look_up: What the gate looks up together with the tokens.

        replay: Returns the stored answer that the gate found, if the request is the same byte for byte.

        hot: Whether the handler itself asks for a task when it needs one; until then it awaits nothing but futures.

        free: Whether a request takes neither token nor place: for health only.

        rest: Whether the last name takes the rest of the path, including slashes.

        has_amounts: Whether members of its answers that have an amount's name hold amounts of money.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    summary: str
    tag: str
    name: Any = None
    query: type[Query] = Query
    body: type[msgspec.Struct] | None = None
    examples: Mapping[str, Any] = MappingProxyType({})
    fields: tuple[str, ...] = ()
    answers: Mapping[int, Any] = MappingProxyType({})
    problems: tuple[str, ...] = ()
    bodiless: bool = False
    narrowed: bool = False
    keyless: str | None = None
    items: str | None = None
    cost: Callable[..., int] | None = None
    make_room: Callable[..., Awaitable[None]] | None = None
    look_up: Callable[..., tuple[LookUp, bytes]] | None = None
    replay: Callable[..., Reply | None] | None = None
    hot: bool = False
    free: bool = False
    rest: bool = False
    has_amounts: bool = True

    @property
    def operation(self) -> str:
        """The id of the operation; generated clients make a name of it."""
        return str(self.handler.__name__)

    def forms(self, status: int) -> tuple[Any, ...]:
        """Return the types of the answers with *status*; an empty tuple if there is no body."""
        answer = self.answers[status]
        return () if answer is None else answer if type(answer) is tuple else (answer,)

    @property
    def takes_key(self) -> bool:
        """Whether the route needs an Idempotency-Key."""
        return self.body is not None and self.keyless is None

    @property
    def codes(self) -> frozenset[str]:
        """All problem codes that this route can answer."""
        codes = {*_ANY, *self.problems}
        if self.role is not None:
            codes.update(_WITH_KEY)
        if not self.free:
            # Pages too may be asked for with a key.
            codes.add("too_many_running")
        if self.body is not None:
            codes.update(_WITH_BODY)
        if self.keyless is not None:
            codes.add("idempotency_key_not_taken")
        return frozenset(codes)
