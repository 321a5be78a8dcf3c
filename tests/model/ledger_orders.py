"""What can be asked of the ledger, and when two requests ask the same."""

from collections.abc import Mapping
from typing import NamedTuple

BALANCE_MIN, BALANCE_MAX = -(2**63), 2**63 - 1
# Seconds that a hold lives unless told otherwise.
LIFETIME = 604_800


class Order(NamedTuple):
    """A transfer or a hold; `effective_at` in seconds on the model's clock."""

    source: str
    destination: str
    amount: int
    currency: str
    reference: str | None = None
    conditions: Mapping[str, int] | None = None
    hold: bool = False
    expires_in: int | None = None
    effective_at: int | None = None

    @property
    def lifetime(self) -> int:
        """Seconds that a hold lives."""
        return LIFETIME if self.expires_in is None else self.expires_in


class Follow(NamedTuple):
    """
    A capture, a void or a reversal.

    `parent` is the key that the earlier transfer is bound to; `by_key` says whether the request names it so, or by its
    id. No amount is all that remains.
    """

    kind: str
    parent: str
    by_key: bool = False
    amount: int | None = None
    release_rest: bool = True


Asked = Order | Follow


class Item(NamedTuple):
    """One request of a bulk, or a single one."""

    key: str
    asked: Asked


def kind_of(asked: Asked) -> str:
    """Return the kind of row that is asked for."""
    if isinstance(asked, Follow):
        return asked.kind
    return "hold" if asked.hold else "transfer"


def well_formed(asked: Asked) -> bool:
    """Tell whether a request can be right at all, whatever the ledger holds."""
    if isinstance(asked, Follow):
        return asked.amount is None or 1 <= asked.amount <= BALANCE_MAX
    if asked.expires_in is not None and not asked.hold:
        return False
    return asked.source != asked.destination and 1 <= asked.amount <= BALANCE_MAX


def early(asked: Asked, now: int) -> bool:
    """Tell whether a request counts for an instant that has not come."""
    return isinstance(asked, Order) and asked.effective_at is not None and asked.effective_at > now


def difference(asked: Asked, bound: Asked) -> tuple[str, ...] | None:
    """Return the names of what is asked otherwise; None of requests of two kinds."""
    if kind_of(asked) != kind_of(bound) or (isinstance(asked, Follow) and _named(asked) != _named(bound)):
        return None
    pairs = zip(asked._fields, _meaning(asked), _meaning(bound), strict=True)
    differs = tuple(member for member, one, other in pairs if one != other)
    return tuple("parent_key" if member == "parent" and _named(asked) else member for member in differs)


def _named(asked: Asked) -> bool:
    return isinstance(asked, Follow) and asked.by_key


def _meaning(asked: Asked) -> tuple[object, ...]:
    """Return all fields, defaults filled in."""
    return asked._replace(expires_in=asked.lifetime) if isinstance(asked, Order) else asked
