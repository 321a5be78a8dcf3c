"""
The auditor checks all ledgers, a page at a time, round after round, and reports what is wrong. It repairs nothing.

A finding is logged as an error and counted in the metrics at once, and is kept with the ledger until a later round has
checked everything and found nothing. Each page is judged in one snapshot, so nothing that is posted in the meantime is
taken for an error, and no snapshot lasts longer than a page.
"""

import logging
import time
from collections.abc import Iterator
from typing import Final

from server.ledger.audit_pages import Finding, Page, PageAudit, Place, after
from server.ledger.audit_rounds import Rounds, Total, Visit
from server.store.errors import DatabaseError, RolledBackError, UnpreparedError
from server.store.postgres import Database
from server.store.sessions import AUDIT_SETTINGS, COMMAND_TIMEOUT_SECONDS, SESSION_SETTINGS, KeptSession
from server.telemetry.metrics import LAG_DIGITS, Sample

# Share of the time in which it works: 97 % of a core are left. It still checks eighty million transfers in two days.
SHARE: Final = 0.03
# Seconds that a page should take: the longest that others wait for it, on one core. Rows of the first page, and the
# least and the most rows of any page.
PAGE_SECONDS: Final = 0.05
PAGE_FIRST: Final = 500
PAGE_MIN: Final = 50
PAGE_MAX: Final = 5_000
# Pages of a ledger before it is the next ledger's turn, so that a large one delays no other. Progress is stored then:
# after a crash, this many pages at most are checked again.
VISIT_PAGES: Final = 20
# Seconds between the beginnings of two rounds of a ledger: in small books, a change is found within that time.
REST_SECONDS: Final = 600.0
# Seconds between two searches for a ledger when none is due, and between two readings of the totals.
LOOK_SECONDS: Final = 10.0
TOTAL_SECONDS: Final = 30.0
# Milliseconds that a statement may take: the sums of ten million accounts. A longer snapshot would keep dead rows.
STATEMENT_TIMEOUT_MS: Final = 30_000

# Each plan is made for the requested page, and run by one process.
AUDITOR_SETTINGS: Final = {
    **SESSION_SETTINGS,
    **AUDIT_SETTINGS,
    "application_name": "tallystick-auditor",
    "plan_cache_mode": "force_custom_plan",
    "max_parallel_workers_per_gather": "0",
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
}

log = logging.getLogger(__name__)


class Auditor:
    """
    Audits, as a job. If two auditors work at once, one finds that the other was there, and leaves the ledger to it.

    Args:
        dsn: Address of Postgres, for a connection that nothing else waits for.

        database: Stores the findings.

    Attributes:
        rows: Number of rows that were checked.

        known: The totals over all ledgers.
    """

    name = "the auditor"

    def __init__(self, dsn: str, database: Database) -> None:
        self._rounds = Rounds(database)
        limit = STATEMENT_TIMEOUT_MS / 1000 + COMMAND_TIMEOUT_SECONDS
        self._session = KeptSession(dsn, AUDITOR_SETTINGS, COMMAND_TIMEOUT_SECONDS, command_seconds=limit)
        self._visit: Visit | None = None
        self._pages = 0
        self._after = 0
        self._size = PAGE_FIRST
        self._total_due = 0.0
        self.rows = 0
        self.known = Total(0, 0.0)

    async def step(self) -> float:
        """Check the next page, and return the seconds to rest after it."""
        began = time.monotonic()
        if began >= self._total_due:
            self.known = await self._rounds.total()
            self._total_due = began + TOTAL_SECONDS
        if self._visit is None:
            self._visit = await self._begin()
            if self._visit is None:
                return LOOK_SECONDS
        visit = self._visit
        place = visit.running.place
        assert place is not None, "a round that is done is visited no more"
        page_began = time.monotonic()
        page = await self._check(visit.ledger_id, place)
        if page is not None:
            self._fit(time.monotonic() - page_began)
            await self._take(visit, place, page)
        return (time.monotonic() - began) * (1 / SHARE - 1)

    def samples(self) -> Iterator[Sample]:
        """Return the job's metrics."""
        yield Sample("tallystick_integrity_rows_total", (), self.rows)
        yield Sample("tallystick_integrity_findings", (), self.known.findings)
        yield Sample("tallystick_integrity_age_seconds", (), round(self.known.age_seconds, LAG_DIGITS))

    async def close(self) -> None:
        """Leave the current round to the next leader, which reads the findings itself."""
        self._visit = None
        self._total_due = 0.0
        self.known = Total(0, 0.0)
        await self._session.close()

    async def _begin(self) -> Visit | None:
        """Return the next ledger in turn that has something to check, or None."""
        visit = await self._rounds.next(self._after, REST_SECONDS)
        if visit is None and self._after:
            visit = await self._rounds.next(0, REST_SECONDS)
        self._after = 0 if visit is None else visit.ledger_id
        self._pages = 0
        return visit

    async def _check(self, ledger_id: int, place: Place) -> Page | None:
        """Check a page; return None if it must be tried again, smaller."""
        try:
            async with (
                self._session.use() as own,
                own.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await PageAudit(own, ledger_id).check(place, self._size)
        except RolledBackError as error:
            if place.part != "sums":
                self._size = max(PAGE_MIN, self._size // 4)
                raise
            # The sums follow from the rows: each transfer takes from one account what it gives to another.
            log.warning("the balances of ledger %d could not be summed up: %s", ledger_id, error)
            return Page(0, {}, after(place))
        except UnpreparedError:
            raise
        except DatabaseError as error:
            # Postgres would refuse again: rows that cannot be read are damaged, or hold what this program has not
            # written.
            if self._size > PAGE_MIN:
                self._size = PAGE_MIN
                return None
            detail = f"{place.part}: rows cannot be read or reckoned with: {error}"
            return Page(0, {"unreadable": Finding("unreadable", 1, (detail,))}, after(place))

    async def _take(self, visit: Visit, place: Place, page: Page) -> None:
        """Add a page to the round, report what is wrong, and store the round, at once if anything is wrong."""
        self.rows += page.rows
        self._pages += 1
        for finding in page.findings.values():
            # Account names are chosen by callers, so they are not logged: GET /v1/integrity has them.
            told = (visit.ledger_id, finding.kind, finding.total, place.part)
            log.error("the books of ledger %d are wrong: %s (%d), found in %s", *told)
        known = visit.findings
        visit.running.take(page)
        ends = page.next is None or self._pages >= VISIT_PAGES
        if page.findings or ends:
            # If it cannot be stored, or another auditor was there, the ledger is read again as it was stored.
            self._visit = None
            if await self._rounds.save(visit) and not ends:
                self._visit = visit
            if visit.findings != known:
                self._total_due = 0.0

    def _fit(self, took: float) -> None:
        """Adapt the size of pages to the time that they should take."""
        if took > 2 * PAGE_SECONDS:
            self._size = max(PAGE_MIN, self._size // 2)
        elif took < PAGE_SECONDS / 2:
            self._size = min(PAGE_MAX, self._size * 2)
