"""Identifiers of transfers: UUID version 7 (RFC 9562, section 5.7), ordered by the time they were made."""

import os
import time
from uuid import UUID

# Bits of the fraction of a millisecond that follow the timestamp (RFC 9562, section 6.2, method 3).
_FRACTION_BITS = 12


def new_transfer_id() -> UUID:
    """Return a new identifier: 48 bits of Unix milliseconds, 12 of their fraction, 62 of randomness."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << _FRACTION_BITS) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random)
