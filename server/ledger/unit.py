"""What travels to Postgres together: one request, or several that somebody sent as one."""

from typing import NamedTuple

from server.ledger.transfers import TransferRequest
from server.telemetry.tallies import Timing
from server.telemetry.top import Top


class Unit(NamedTuple):
    """Requests that travel in one batch: a single one, a part of a bulk, or (*atomic*) a linked set."""

    requests: tuple[TransferRequest, ...]
    atomic: bool
    # Instants on the clock of `time.monotonic`, in seconds: when it joined the queue, and when its callers give up.
    arrived: float
    deadline: float
    # Where a single one notes how long it took.
    timing: Timing | None = None

    def set_number(self, number: int) -> int:
        """Return what tells the database that its requests belong together, given its *number* in the batch, from 1."""
        if self.atomic:
            return number
        return -number if len(self.requests) > 1 else 0

    @property
    def accounts(self) -> set[str]:
        """All accounts it names."""
        return {side for request in self.requests for side in (request.source, request.destination)}

    def note(self, ledger_id: int, hot_accounts: Top[tuple[int, str]], left: float, seconds: float) -> None:
        """
        Note which accounts it was about and how long it took.

        Args:
            left: When its batch left, on the clock of `time.monotonic`, in seconds.

            seconds: For how long its batch was away.
        """
        for request in self.requests:
            hot_accounts.add((ledger_id, request.source))
            hot_accounts.add((ledger_id, request.destination))
        if self.timing is not None:
            self.timing.lane = left - self.arrived
            self.timing.database = seconds
