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

# Takes the family of handlers until it is bound to one, the call, and its body or query as decoded.
Handler = Callable[..., Awaitable[Reply]]


class Route(NamedTuple):
    """
    A route.

    Attributes:
        method: Of HTTP; a GET answers HEAD too.

        path: With names in braces, each of which stands for one segment.

        role: What a key needs at least; None is open to all, without a key.

        handler: A method of one of the handler classes.

        query: What a read takes: the parameters of its query.

        body: What a write takes.

        answers: Status and type of what is answered when it goes well. None is a page or a probe.

        problems: Codes that this route can answer, besides those of every route.

        bodiless: A write may leave its body out: every member of it has a default.

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
    query: type[Query] = Query
    body: type[msgspec.Struct] | None = None
    answers: Mapping[int, Any] = MappingProxyType({})
    problems: tuple[str, ...] = ()
    bodiless: bool = False
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
