"""A unit of a batch: one request, or the requests of a bulk or of an atomic set, of one ledger."""

from server.ledger.transfers import Outcome, TransferRequest
from server.telemetry.tallies import Timing
from server.telemetry.top import Top


class Unit:
    """
    Requests that are sent in the same batch, and their result.

    Args:
        ledger_id: The ledger of all requests.

        requests: A single one, a part of a bulk, or (*atomic*) a linked set.

        arrived, deadline: When it joined the queue, and when its callers give up, on the clock of `time.monotonic`, in
            seconds.

        timing: Receives how long a single request took.

    Attributes:
        result: The outcomes of the requests in order, or the error that prevented them; None until either is known.
    """

    __slots__ = ("arrived", "atomic", "deadline", "ledger_id", "requests", "result", "timing")

    def __init__(
        self,
        ledger_id: int,
        requests: tuple[TransferRequest, ...],
        arrived: float,
        deadline: float,
        *,
        atomic: bool = False,
        timing: Timing | None = None,
    ) -> None:
        self.ledger_id = ledger_id
        self.requests = requests
        self.atomic = atomic
        self.arrived = arrived
        self.deadline = deadline
        self.timing = timing
        self.result: list[Outcome] | BaseException | None = None

    @property
    def accounts(self) -> set[str]:
        """All accounts that the unit names; only the database knows those of parents."""
        sides = (side for request in self.requests for side in (request.source, request.destination))
        return {side for side in sides if side is not None}

    def meets(self, locked: set[str]) -> set[str]:
        """Return which of the *locked* rows of its ledger the unit may need: all of them if it names a parent."""
        if any(request.source is None for request in self.requests):
            return locked
        return self.accounts & locked

    def set_number(self, number: int) -> int:
        """Return the unit's element of `p_sets` of `post_transfers`; *number* is its position in the batch, from 1."""
        if self.atomic:
            return number
        return -number if len(self.requests) > 1 else 0

    def note(self, hot_accounts: Top[tuple[int, str]], left: float, seconds: float) -> None:
        """
        Record which accounts the unit was about, and how long it took.

        Args:
            left: When its batch was sent, on the clock of `time.monotonic`, in seconds.

            seconds: How long Postgres took.
        """
        for request in self.requests:
            if request.source is not None and request.destination is not None:
                hot_accounts.add((self.ledger_id, request.source))
                hot_accounts.add((self.ledger_id, request.destination))
        if self.timing is not None:
            self.timing.lane = left - self.arrived
            self.timing.database = seconds
