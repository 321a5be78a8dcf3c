"""What the state machine draws: few names and small numbers, so that requests meet, and now and then an extreme."""

from itertools import permutations
from typing import TypeVar

from hypothesis import strategies as st

from tests.model.ledger_model import BALANCE_MAX, BALANCE_MIN, Order

T = TypeVar("T")

# The first are opened at the start; `ghost` never is.
STARTED = ("world", "a", "b", "c")
OPENED = (*STARTED, "d")
NAMES = (*OPENED, "ghost")


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


def _orders(pairs: st.SearchStrategy[tuple[str, str]], quantities: st.SearchStrategy[int]) -> st.SearchStrategy[Order]:
    return st.builds(lambda pair, *rest: Order(*pair, *rest), pairs, quantities, currencies, references, conditions)


# Orders that can be right, and orders that are wrong whatever the ledger holds.
orders = now_and_then(
    _orders(sides, amounts),
    st.one_of(_orders(sides, st.sampled_from((0, -1, BALANCE_MAX + 1))), _orders(st.just(("a", "a")), amounts)),
)

changes = st.fixed_dictionaries(
    {}, optional={"floor": floors, "ceiling": ceilings, "closed": now_and_then(st.just(False), st.just(True))}
)
