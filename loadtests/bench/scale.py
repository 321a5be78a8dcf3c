"""How much is measured: all of it, or a little of everything."""

from typing import NamedTuple

# The API workloads of Tallystick at all these numbers of connections; a bulk is a hundred times a transfer.
CONNECTIONS = (1, 8, 64, 256, 512)
BULK_CONNECTIONS = (1, 4, 16)
# Connections of everything that is measured at one number only.
USUAL = 64
# Shares of the peak at which latency is measured.
SHARES = (0.5, 0.7, 0.9)


class Scale(NamedTuple):
    """
    What a run measures. Seconds are of one run.

    `rounds` is how often each run is made, alternating with all others of its part. `fill_seconds` bounds how long
    ledgers are filled in all; what is not filled by then is not measured.
    """

    name: str
    rounds: int
    seconds: float
    connections: tuple[int, ...]
    bulk_connections: tuple[int, ...]
    open_workloads: tuple[str, ...]
    factors: tuple[int, ...]
    overload_seconds: float
    sizes: tuple[int, ...]
    fill_seconds: float
    crowds: tuple[int, ...]
    crowd_seconds: float
    ledgers: tuple[int, ...]
    # Whether each part gets a server of its own, so that no part finds what another one left behind.
    fresh: bool


FULL = Scale(
    name="full",
    rounds=3,
    seconds=2.5,
    connections=CONNECTIONS,
    bulk_connections=BULK_CONNECTIONS,
    open_workloads=("read", "post", "hot"),
    factors=(1, 2, 5, 10),
    # Long enough for what is compared with the peak not to be the noise of a busy machine.
    overload_seconds=8.0,
    sizes=(1_000, 100_000, 1_000_000, 10_000_000),
    fill_seconds=360.0,
    crowds=(100, 1_000, 10_000),
    crowd_seconds=4.0,
    ledgers=(1, 8, 32),
    fresh=True,
)
QUICK = Scale(
    name="quick",
    rounds=1,
    seconds=1.5,
    connections=(1, 64, 512),
    bulk_connections=(4,),
    open_workloads=("read", "post"),
    factors=(1, 2, 10),
    overload_seconds=1.5,
    sizes=(1_000, 100_000),
    fill_seconds=30.0,
    crowds=(100, 1_000),
    crowd_seconds=2.0,
    ledgers=(1, 4),
    fresh=False,
)
