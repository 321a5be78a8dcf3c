"""What the admin process knows about the server from the messages of its supervisor."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from server.process.channel import BusyKey, Counted, Hot, HotAccount, Inquire, Place, Reported, Status, Told
from server.process.totals import Counts, Totals

# Seconds the supervisor has to answer which children are ready: a little more than it waits for them.
REPORT_SECONDS: Final = 3.5
# Seconds that a request waits for the first `Status` after this process has started.
KNOWN_SECONDS: Final = 5.0
# The supervisor sends `Status` once a second. After this many seconds without one it counts as stuck.
SILENCE_SECONDS: Final = 10.0
# Most accounts and API keys that are shown.
HOT_ACCOUNTS_SHOWN: Final = 10
BUSY_KEYS_SHOWN: Final = 10


class UnknownError(Exception):
    """The supervisor has not sent the state of the server in time."""


class Mirror:
    """
    Holds the reports of all children, as the supervisor forwards them.

    Reports take effect together with the next `Status`, so that a process that ends is counted once.

    Args:
        inquire: Sends the supervisor an inquiry.
    """

    def __init__(self, inquire: Callable[[Inquire], object]) -> None:
        self._inquire = inquire
        self._sources: dict[int, Counts] = {}
        self._told: list[Told] = []
        self._status: Status | None = None
        self._known = asyncio.Event()
        self._heard_at = asyncio.get_running_loop().time()
        self._asking: asyncio.Future[Reported] | None = None
        # Called after each `Status`.
        self.on_status: Callable[[], None] | None = None

    def handle(self, message: Told | Status | Reported) -> None:
        """Take a message of the supervisor."""
        match message:
            case Told():
                self._told.append(message)
            case Status():
                self._apply(message)
            case Reported():
                if self._asking is not None and not self._asking.done():
                    self._asking.set_result(message)
                self._asking = None

    def _apply(self, status: Status) -> None:
        for source, report in ((told.source, told.report) for told in self._told):
            counts = self._sources.setdefault(source, Counts())
            match report:
                case Counted():
                    counts.update(report)
                case Hot():
                    counts.hot = report
        self._told.clear()
        for ended in self._sources.keys() - set(status.sources):
            del self._sources[ended]
        self._status = status
        self._heard_at = asyncio.get_running_loop().time()
        self._known.set()
        if self.on_status is not None:
            self.on_status()

    async def known(self) -> None:
        """
        Wait for the first `Status`.

        Raises:
            UnknownError: It did not come in time.
        """
        try:
            await asyncio.wait_for(self._known.wait(), KNOWN_SECONDS)
        except TimeoutError:
            raise UnknownError from None

    async def reports(self) -> Reported:
        """
        Ask which children are ready.

        Raises:
            UnknownError: The supervisor did not answer in time.
        """
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_future()
            self._inquire(Inquire())
        asking = self._asking
        try:
            # One answer serves all callers that wait for it.
            return await asyncio.wait_for(asyncio.shield(asking), REPORT_SECONDS)
        except TimeoutError:
            if self._asking is asking:
                self._asking = None
            raise UnknownError from None

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last `Status`."""
        return asyncio.get_running_loop().time() - self._heard_at

    @property
    def status(self) -> Status:
        """The last `Status`; only after `known` has returned."""
        assert self._status is not None, "the caller has waited for it"
        return self._status

    def places(self) -> list[Place]:
        """Return the places of children, with their silence up to now."""
        passed = self.silent_seconds
        return [place._replace(silent_seconds=place.silent_seconds + passed) for place in self.status.places]

    def totals(self) -> Totals:
        """Return the sums over all children, including those that have ended."""
        totals = Totals()
        for counts in self._sources.values():
            totals.add(counts)
        return totals

    def hot_accounts(self) -> list[HotAccount]:
        """Return the accounts that had most transfers in the last few seconds."""
        transfers: Counter[tuple[int, str]] = Counter()
        for counts in self._sources.values():
            for ledger_id, account, number in counts.hot.accounts:
                transfers[ledger_id, account] += number
        return [HotAccount(*which, number) for which, number in transfers.most_common(HOT_ACCOUNTS_SHOWN)]

    def busy_keys(self) -> list[BusyKey]:
        """Return the busiest API keys of the last few seconds, those that were most often limited first."""
        asked: Counter[tuple[int, str]] = Counter()
        limited: Counter[tuple[int, str]] = Counter()
        for counts in self._sources.values():
            for ledger_id, key, number, refused in counts.hot.keys:
                asked[ledger_id, key] += number
                limited[ledger_id, key] += refused
        busiest = sorted(asked, key=lambda which: (limited[which], asked[which]), reverse=True)
        return [BusyKey(*which, asked[which], limited[which]) for which in busiest[:BUSY_KEYS_SHOWN]]
