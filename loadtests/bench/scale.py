"""How much is measured: all of it, or a little of everything."""

from typing import NamedTuple

# Connections of everything that is measured at one number only.
USUAL = 64
# Shares of the peak at which latency is measured.
SHARES = (0.5, 0.7, 0.9)


class Scale(NamedTuple):
    """
    What a benchmark measures. The defaults measure everything. Seconds are those of one run.

    `rounds` is how often each run is made, alternating with all others of its part. `fill_seconds` bounds how long
    ledgers are filled in all; what is not filled by then is not measured.
    """

    name: str = "full"
    rounds: int = 3
    seconds: float = 2.5
    connections: tuple[int, ...] = (1, 8, 64, 256, 512)
    # A bulk is five hundred transfers.
    bulk_connections: tuple[int, ...] = (1, 4, 16, 64)
    open_workloads: tuple[str, ...] = ("read", "post", "hot")
    factors: tuple[int, ...] = (1, 2, 5, 10)
    # Long enough for what is compared with the peak not to be the noise of a busy machine.
    overload_seconds: float = 8.0
    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000, 10_000_000)
    fill_seconds: float = 360.0
    crowds: tuple[int, ...] = (100, 1_000, 10_000)
    crowd_seconds: float = 4.0
    ledgers: tuple[int, ...] = (1, 8, 32, 256)
    keys: tuple[int, ...] = (1, 100, 1_000, 10_000)


FULL = Scale()
QUICK = Scale(
    name="quick",
    rounds=1,
    seconds=1.5,
    connections=(1, 64, 512),
    bulk_connections=(1, 4),
    open_workloads=("read", "post"),
    factors=(1, 2, 10),
    overload_seconds=1.5,
    sizes=(1_000, 100_000),
    fill_seconds=30.0,
    crowds=(100, 1_000),
    crowd_seconds=2.0,
    ledgers=(1, 8),
    keys=(1, 100),
)
