"""The auditor's rounds: how far it has come in each ledger, and what it has found."""

from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from server.ledger.audit_pages import Finding, Page, Place, add
from server.store.postgres import Database


class Round(msgspec.Struct):
    """One pass of the auditor through a ledger; `place` is null once it is done, `finished_at` until then."""

    started_at: datetime
    rows: int = 0
    findings: list[Finding] = msgspec.field(default_factory=list)
    place: Place | None = None
    finished_at: datetime | None = None
    # The number of each that it has checked.
    accounts: int = 0
    transfers: int = 0

    @property
    def total(self) -> int:
        """Number of errors that the round has found."""
        return sum(finding.total for finding in self.findings)

    def take(self, page: Page) -> None:
        """Add the result of a page; after the last page the round is done."""
        found = {finding.kind: finding for finding in self.findings}
        add(found, page.findings.values())
        self.findings = list(found.values())
        self.rows += page.rows
        self.accounts += page.accounts
        if self.place is not None and self.place.part == "transfers":
            self.transfers += page.rows
        self.place = page.next
        if page.next is None:
            self.finished_at = datetime.now(UTC)


class Visit(msgspec.Struct):
    """A ledger with its current round, as it was read: `revision` tells whether another auditor was there since."""

    ledger_id: int
    revision: int
    running: Round
    last: Round | None

    @property
    def findings(self) -> int:
        """Number of known errors: those of a round stand until a later one has checked everything."""
        if self.last is None or self.running.finished_at is not None:
            return self.running.total
        return max(self.running.total, self.last.total)


class Integrity(NamedTuple):
    """The state of a ledger: the head of its chain, and the auditor's rounds."""

    position: int
    link: bytes
    # The latest instant of its events.
    at: datetime | None
    running: Round | None
    last: Round | None


class Total(NamedTuple):
    """Over all ledgers: known errors, and seconds since the ledger that waits longest was checked."""

    findings: int
    age_seconds: float


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Round).decode


def read_round(text: str | None) -> Round | None:
    """Return a stored round; None if there is none."""
    return None if text is None else _decode(text)


class Rounds:
    """
    Stores rounds. Every method may raise StoreError, QueueFullError or DatabaseError.

    Args:
        database: Holds the rounds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def next(self, after: int, rest_seconds: float) -> Visit | None:
        """
        Return the next ledger after the id *after* whose round is in progress or due, or None.

        Args:
            rest_seconds: Seconds between the beginnings of two rounds of a ledger.
        """
        rows = await self._database.read("audit_round_next", after, rest_seconds)
        if not rows:
            return None
        (row,) = rows
        running = read_round(row["running"]) or Round(datetime.now(UTC), place=Place())
        return Visit(row["id"], row["revision"], running, read_round(row["last"]))

    async def save(self, visit: Visit) -> bool:
        """Store how far a visit has come; return False if another auditor was there since it was read."""
        running = visit.running
        text = _encode(running).decode()
        done = running.finished_at is not None
        kept = await self._database.write(
            "audit_round_save",
            visit.ledger_id,
            visit.revision,
            running.started_at,
            running.finished_at,
            visit.findings,
            None if done else text,
            text if done else None,
        )
        if kept:
            visit.revision = kept[0]["revision"]
        return bool(kept)

    async def read(self, ledger_id: int) -> Integrity:
        """Return the state of a ledger."""
        (row,) = await self._database.read("audit_round_read", ledger_id)
        rounds = (read_round(row["running"]), read_round(row["last"]))
        return Integrity(row["position"] or 0, row["link"] or b"", row["peak"], *rounds)

    async def total(self) -> Total:
        """Return the totals over all ledgers."""
        (row,) = await self._database.read("audit_round_total")
        return Total(*row)
