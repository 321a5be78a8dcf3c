"""The handler that shows what is left of a key's limits."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from server.gate.gate import Gate
from server.gate.limits import Limit, LocalBuckets
from server.http.call import Call
from server.http.headers import NO_STORE
from server.http.members import Count
from server.http.query import Query
from server.http.rate_limits import seconds_until_full
from server.http.reply import Reply

# Requests for its limits that a worker answers a key for free: enough for a dashboard, and for clients that look before
# they send. A further one costs a token, so that a client that asks in a loop is limited like any other.
FREE: Final = Limit(quota=10, window=1, burst=20)

_encode = msgspec.json.Encoder().encode


class PolicyBody(msgspec.Struct, gc=False):
    """A limit, and what is left of it."""

    name: str
    quota: Annotated[Count, Meta(description="Tokens that are added in each window.")]
    window_seconds: Count
    burst: Annotated[Count, Meta(description="Most tokens that the limit can hold.")]
    remaining: Count
    reset_seconds: Annotated[Count, Meta(description="Seconds until the limit is full again, if no request comes.")]


class ConcurrencyBody(msgspec.Struct, gc=False):
    """Requests of the key that may run at once in one worker, and those that run in this one."""

    limit: Count
    running: Count


class LimitsBody(msgspec.Struct, gc=False):
    """The limits of a key."""

    policies: list[PolicyBody]
    concurrency: ConcurrencyBody
    counted_by: Annotated[
        Literal["service", "worker"],
        Meta(
            description="`worker` while Redis is away: each worker then counts alone, against its share of the limits."
        ),
    ]


class LimitHandlers:
    """
    The handler of the limits of a key.

    Args:
        gate: Knows the tokens that are left, and the requests that are running.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._free = LocalBuckets()

    def cost(self, call: Call) -> int:
        """Return how many tokens a request costs: none, unless its key asks too often."""
        return 0 if self._free.take(call.ledger_id, [(call.key.id, FREE)], 1, 1).wait == 0 else 1

    async def get_limits(self, call: Call, _query: Query) -> Reply:
        """Answer with the tokens that are left, without taking any."""
        key = call.key
        # For a key with a single limit, the gate has already answered.
        left = [call.decision.left] if len(key.limits) == 1 else await self._gate.left(key)
        policies = [
            PolicyBody(name, *limit, remaining, seconds_until_full(limit, remaining))
            for name, (_, limit), remaining in zip(key.policies, key.limits, left, strict=True)
        ]
        concurrency = ConcurrencyBody(key.concurrency, self._gate.running.count(key))
        counted_by: Literal["service", "worker"] = "worker" if self._gate.is_alone else "service"
        return Reply(200, _encode(LimitsBody(policies, concurrency, counted_by)), headers=NO_STORE)
