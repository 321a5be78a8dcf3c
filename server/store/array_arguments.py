"""Arrays as arguments of statements: lists and tuples, and nothing else."""

from asyncpg.protocol import protocol

# What the driver takes for an array. It asks this of every element too, which may be an array itself, and asks an
# abstract base class, whose answer is computed in Python each time: half of what encoding a batch of transfers costs.
# Types are looked at in C. The driver has no setting for it; the name is looked up in its module at every call.
ARRAY_TYPES = (list, tuple)


def take_lists_and_tuples() -> None:
    """Have the driver take lists and tuples for arrays, in the whole process; others are refused as a wrong type."""
    protocol.IterableABC = ARRAY_TYPES  # type: ignore[attr-defined]  # a name of the compiled module that no stub has
