"""Identifiers of transfers: UUID version 7 (RFC 9562, section 5.7), ordered by the time they were made."""

import random
import time

from asyncpg.pgproto.pgproto import UUID

# Bits of the fraction of a millisecond that follow the timestamp (RFC 9562, section 6.2, method 3).
_FRACTION_BITS = 12
_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62


def new_transfer_id() -> UUID:
    """Return a new identifier: 48 bits of Unix milliseconds, 12 of their fraction, 62 of randomness."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << _FRACTION_BITS) // 1_000_000
    # An identifier is no secret, so it need only be unique. A forked process reseeds by itself.
    tail = random.getrandbits(62)
    number = (milliseconds << 80) | _VERSION | (fraction << 64) | _VARIANT | tail
    # The driver's own subclass of uuid.UUID: made and written several times faster.
    return UUID(number.to_bytes(16, "big"))
