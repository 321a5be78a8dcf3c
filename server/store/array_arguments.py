"""Makes the driver take only lists and tuples for arrays in the arguments of statements."""

from asyncpg.protocol import protocol

# The types that the driver takes for an array. It checks every element too, which may be an array itself, against an
# abstract base class, which answers in Python each time: half of what encoding a batch of transfers costs. These types
# are checked in C. The driver has no setting for it; it looks the name up in its module at every call.
ARRAY_TYPES = (list, tuple)


def take_lists_and_tuples() -> None:
    """Make the driver take lists and tuples for arrays, in the whole process; it refuses others as a wrong type."""
    protocol.IterableABC = ARRAY_TYPES  # type: ignore[attr-defined]  # a name of the compiled module that no stub has
