"""What a route declares."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from server.gate.gate import LookUp
from server.gate.keys import Role
from server.http.query import Query
from server.http.reply import Reply

# Codes of problems that every route can answer, that those have which need a key, and those that take a body.
_ANY: Final = ("malformed_request", "invalid_request", "quota_exceeded", "overloaded", "unavailable", "internal_error")
_WITH_KEY: Final = ("unauthorized", "forbidden", "too_many_running", "cost_exceeds_capacity")
_WITH_BODY: Final = ("body_too_large", "unsupported_media_type", "request_timeout")

# Stands in a path for one segment.
NAME: Final = "{id}"

# Takes the family of handlers until it is bound to one, the call, and its body or query as decoded.
Handler = Callable[..., Awaitable[Reply]]


class Text(NamedTuple):
    """
    An answer that is no JSON.

    Attributes:
        media_type: Without parameters.

        description: What it holds.

        schema: Of a piece of it, where it has some: an event of a stream.
    """

    media_type: str
    description: str
    schema: Mapping[str, Any] = MappingProxyType({"type": "string"})


class Route(NamedTuple):
    """
    A route: what the dispatcher, the OpenAPI document and the tests know of it.

    Attributes:
        method: Of HTTP; a GET answers HEAD too.

        path: With `{id}` in the place of a segment that callers choose.

        role: What a key needs at least; None is open to all, without a key.

        handler: A method of one of the handler classes. Its name is the id of the operation.

        summary: What it does, for callers: a few words that begin with a verb.

        tag: The part of the reference that it stands in.

        name: The type of what stands in the path for `{id}`, with a description and an example.

        query: What a read takes: the parameters of its query.

        body: What a write takes.

        examples: Of bodies, by title. Sent to a ledger in its first state, each is answered with the first answer.

        fields: Header fields that it takes, of `server.http.fields`, besides those of every route.

        answers: Status and type of what is answered when it goes well: several types where it may be one of them, a
            `Text` where it is no JSON, None where there is no body.

        problems: Codes that this route can answer, besides those of every route.

        bodiless: A write may leave its body out: every member of it has a default.

        narrowed: A key that is narrowed to accounts may use it, and is shown nothing of others.

        keyless: Why a write needs no Idempotency-Key, as told to a caller who sends one.

        items: Of a bulk: the member of the body that costs a token an item.

        cost: Returns the tokens that a request of another route costs, where that is not one.

        make_room: Of a bulk: returns when there is room for what its body, not decoded yet, asks for.

        look_up: What the gate looks up together with the tokens.

        replay: Returns the stored answer the gate has found, where the request is the same byte for byte.

        hot: Its handler says itself when it needs a task; until then it waits for nothing but futures.

        free: Takes neither token nor place: for health alone.

        rest: The last name takes the rest of the path, slashes too.

        has_amounts: Its answers hold amounts of money, where they hold members of such names.
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
        """The id of the operation, which clients that are generated make a name of."""
        return str(self.handler.__name__)

    def forms(self, status: int) -> tuple[Any, ...]:
        """Return the types of what is answered with *status*; none where there is no body."""
        answer = self.answers[status]
        return () if answer is None else answer if type(answer) is tuple else (answer,)

    @property
    def takes_key(self) -> bool:
        """Whether it needs an Idempotency-Key."""
        return self.body is not None and self.keyless is None

    @property
    def codes(self) -> frozenset[str]:
        """Every code that a request for this route can be answered with."""
        codes = {*_ANY, *self.problems}
        if self.role is not None:
            codes.update(_WITH_KEY)
        if self.body is not None:
            codes.update(_WITH_BODY)
        if self.keyless is not None:
            codes.add("idempotency_key_not_taken")
        return frozenset(codes)
