"""
The auditor goes through all ledgers, a page at a time, round after round, and tells what is wrong. It repairs nothing.

What it finds is an error in the log and a number in the metrics at once, and is kept with the ledger until a later
round has looked everywhere and found nothing. Each page is judged in one snapshot, so nothing that is posted meanwhile
is taken for wrong, and no snapshot is kept for longer than a page takes.
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

# The part of the time in which it works: a core has 97 % left. It still checks eighty million transfers in two days.
SHARE: Final = 0.03
# Seconds that a page should take, and rows of the first one and of any: what others wait for at most, on one core.
PAGE_SECONDS: Final = 0.05
PAGE_FIRST: Final = 500
PAGE_MIN: Final = 50
PAGE_MAX: Final = 5_000
# Pages of a ledger before it is the next one's turn, so that a large one holds up no other. How far it has come is kept
# then: who goes on after a crash checks so many once more.
VISIT_PAGES: Final = 20
# Seconds between the beginnings of two rounds of a ledger: in small books, what is changed is found in that time.
REST_SECONDS: Final = 600.0
# Seconds between two looks for a ledger when none is due, and between two readings of what is known over all.
LOOK_SECONDS: Final = 10.0
TOTAL_SECONDS: Final = 30.0
# Milliseconds that a statement may take: the sums of ten million accounts. Longer a snapshot would keep dead rows.
STATEMENT_TIMEOUT_MS: Final = 30_000

# A plan is made for the page that is asked for, and by one process.
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
    Audits, as a job. Of two auditors at once, one finds that the other was there, and leaves the ledger to it.

    Args:
        dsn: Address of Postgres: it has a connection of its own, which nobody waits for.

        database: Where it keeps what it has found.

    Attributes:
        rows: That were checked.

        known: What is known over all ledgers.
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
        """Check the next page, and return for how long to rest after it."""
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
        """Return its numbers."""
        yield Sample("tallystick_integrity_rows_total", (), self.rows)
        yield Sample("tallystick_integrity_findings", (), self.known.findings)
        yield Sample("tallystick_integrity_age_seconds", (), round(self.known.age_seconds, LAG_DIGITS))

    async def close(self) -> None:
        """Leave what is under way to the next leader, who knows of findings himself."""
        self._visit = None
        self._total_due = 0.0
        self.known = Total(0, 0.0)
        await self._session.close()

    async def _begin(self) -> Visit | None:
        """Return the next ledger in turn that has something to be checked, or None."""
        visit = await self._rounds.next(self._after, REST_SECONDS)
        if visit is None and self._after:
            visit = await self._rounds.next(0, REST_SECONDS)
        self._after = 0 if visit is None else visit.ledger_id
        self._pages = 0
        return visit

    async def _check(self, ledger_id: int, place: Place) -> Page | None:
        """Check a page; None where it has to be tried again, and is smaller then."""
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
            # The sums follow from the rows: each takes from one account what it gives to another.
            log.warning("the balances of ledger %d could not be summed up: %s", ledger_id, error)
            return Page(0, {}, after(place))
        except UnpreparedError:
            raise
        except DatabaseError as error:
            # It would refuse it again: rows that cannot be read are damaged, or hold what nothing here has written.
            if self._size > PAGE_MIN:
                self._size = PAGE_MIN
                return None
            detail = f"{place.part}: rows cannot be read or reckoned with: {error}"
            return Page(0, {"unreadable": Finding("unreadable", 1, (detail,))}, after(place))

    async def _take(self, visit: Visit, place: Place, page: Page) -> None:
        """Count a page, tell what is wrong, and keep it, at once where there is something to tell."""
        self.rows += page.rows
        self._pages += 1
        for finding in page.findings.values():
            # No names of accounts, which callers chose: GET /v1/integrity has them.
            told = (visit.ledger_id, finding.kind, finding.total, place.part)
            log.error("the books of ledger %d are wrong: %s (%d), found in %s", *told)
        known = visit.findings
        visit.running.take(page)
        ends = page.next is None or self._pages >= VISIT_PAGES
        if page.findings or ends:
            # Where it cannot be kept, or another auditor was there, the ledger is taken up anew as it was kept.
            self._visit = None
            if await self._rounds.save(visit) and not ends:
                self._visit = visit
            if visit.findings != known:
                self._total_due = 0.0

    def _fit(self, took: float) -> None:
        """Let pages take as long as they should."""
        if took > 2 * PAGE_SECONDS:
            self._size = max(PAGE_MIN, self._size // 2)
        elif took < PAGE_SECONDS / 2:
            self._size = min(PAGE_MAX, self._size * 2)
