"""What the state machine draws: few names and small numbers, so that requests meet, and now and then an extreme."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests.model.ledger_orders import BALANCE_MAX, BALANCE_MIN, Follow, Order

T = TypeVar("T")

# The first are opened at the start; `ghost` never is.
STARTED = ("world", "a", "b", "c")
OPENED = (*STARTED, "d")
NAMES = (*OPENED, "ghost")
# Seconds of the shortest life of a hold: far more than a run of the machine takes, so that only its jumps end one.
TERM = 10_000
DAY = 86_400
# Value dates lie days before all postings, or in a century to come.
VALUE_DATES = (-1 * DAY, -2 * DAY, -3 * DAY)
TO_COME = 40_000 * DAY


def now_and_then(common: st.SearchStrategy[T], rare: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Draw *rare* about once in twelve times; hypothesis itself prefers edges and would draw it far more often."""
    return st.integers(0, 11).flatmap(lambda number: rare if number == 7 else common)


names = st.sampled_from(NAMES)
opened = st.sampled_from(OPENED)
floors = now_and_then(st.sampled_from((None, 0, 0, -50)), st.sampled_from((20, BALANCE_MIN)))
ceilings = now_and_then(st.sampled_from((None, None, 100)), st.sampled_from((0, BALANCE_MAX)))
currencies = now_and_then(st.just("EUR"), st.just("USD"))
amounts = now_and_then(st.integers(1, 60), st.sampled_from((BALANCE_MAX, BALANCE_MAX - 30)))
sides = now_and_then(st.sampled_from(tuple(permutations(STARTED, 2))), st.sampled_from(tuple(permutations(NAMES, 2))))
references = st.sampled_from((None, "invoice-1", "invoice-2"))
conditions = now_and_then(
    st.none(),
    st.one_of(
        st.dictionaries(st.sampled_from(("source_version", "destination_version")), st.integers(1, 8), min_size=1),
        st.fixed_dictionaries({"source_available_gte": st.integers(-60, 60)}),
    ),
)
# Of a transfer or hold: whether it is a hold, and how long it lives. Wrong now and then: a transfer does not expire.
lifetimes = st.sampled_from(
    ((False, None),) * 5 + ((True, None), (True, TERM), (True, TERM), (True, 2 * TERM), (True, 3 * TERM))
)
value_dates = now_and_then(st.sampled_from((None, None, None, *VALUE_DATES)), st.just(TO_COME))
jumps = st.sampled_from((TERM // 2, TERM, 2 * TERM))


def _order(sides_: tuple[str, str], lifetime: tuple[bool, int | None], **rest: Any) -> Order:
    source, destination = sides_
    hold, expires_in = lifetime
    return Order(source, destination, hold=hold, expires_in=expires_in, **rest)


def _orders(pairs: st.SearchStrategy[tuple[str, str]], quantities: st.SearchStrategy[int]) -> st.SearchStrategy[Order]:
    return st.builds(
        _order,
        pairs,
        lifetimes,
        amount=quantities,
        currency=currencies,
        reference=references,
        conditions=conditions,
        effective_at=value_dates,
    )


# Orders that can be right, and orders that are wrong whatever the ledger holds.
orders = now_and_then(
    _orders(sides, amounts),
    st.one_of(
        _orders(sides, st.sampled_from((0, -1, BALANCE_MAX + 1))),
        _orders(st.just(("a", "a")), amounts),
        _orders(sides, amounts).map(lambda order: order._replace(hold=False, expires_in=TERM)),
    ),
)
holds = _orders(sides, amounts).map(lambda order: order._replace(hold=True, effective_at=None))


# What is asked of anything, and of what is an open hold.
FOLLOWS = ("capture", "capture", "capture", "void", "reversal", "reversal")
OF_HOLDS = ("capture", "capture", "capture", "void")


def follows(
    parents: Sequence[str], *, in_bulk: bool = False, kinds: Sequence[str] = FOLLOWS
) -> st.SearchStrategy[Follow]:
    """Draw what is asked of one of *parents* (keys), or now and then of what was never posted."""
    quantities = now_and_then(
        st.one_of(st.none(), st.integers(1, 40)), st.sampled_from((0, BALANCE_MAX, BALANCE_MAX + 1))
    )

    def follow(kind: str, parent: str, by_key: bool, amount: int | None, release_rest: bool) -> Follow:
        if kind == "void":
            return Follow(kind, parent, by_key)
        return Follow(kind, parent, by_key, amount, release_rest or kind != "capture")

    return st.builds(
        follow,
        st.sampled_from(kinds),
        now_and_then(st.sampled_from(parents), st.just("never-posted")),
        st.booleans() if in_bulk else st.just(False),
        quantities,
        st.booleans(),
    )


changes = st.fixed_dictionaries(
    {}, optional={"floor": floors, "ceiling": ceilings, "closed": now_and_then(st.just(False), st.just(True))}
)
