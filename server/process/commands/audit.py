"""Prints the report of `tallystick audit`."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.ledger.audit import LedgerReport, audit
from server.ledger.audit_pages import Finding
from server.process.commands.exits import complain, say
from server.process.commands.tables import say_json
from server.telemetry.metrics import AUDITED

# Seconds between two lines of progress; the audit of a small ledger ends before the first.
PROGRESS_SECONDS = 5.0


class _Progress:
    """Prints the current step of the audit on standard error every few seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._now = "connecting"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def on_pass(self, ledger: str, what: str) -> None:
        self._now = f"ledger {ledger}: {what}"

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            complain(f"{self.seconds:5.0f} s  {self._now}")


async def report_audit(dsn: str, ledger: str | None, metrics: Path | None = None, *, as_json: bool = False) -> bool:
    """
    Audit a ledger or all ledgers, print the report, and return whether the books are clean.

    Args:
        metrics: File for Prometheus's node exporter; written when the audit is complete.

        as_json: Whether to print the report as one JSON object when the audit is complete.

    Raises:
        AuditError, StoreUnavailableError, DatabaseError: As `audit`.
        OutputError: The report cannot be written.
        OSError: The file *metrics* cannot be written.
    """
    progress = _Progress()
    ticker = asyncio.get_running_loop().create_task(progress.run())
    reports: list[LedgerReport] = []
    schema: list[Finding] = []
    try:
        async for part in audit(dsn, ledger, progress.on_pass):
            if isinstance(part, Finding):
                schema.append(part)
            else:
                reports.append(part)
            if not as_json:
                _print_part(part)
    finally:
        ticker.cancel()
    seconds = progress.seconds
    findings = _total(schema) + sum(_total(report.findings) for report in reports)
    if as_json:
        shown = [_members(report) for report in reports]
        say_json({"clean": not findings, "seconds": round(seconds, 3), "schema": _all(schema), "ledgers": shown})
    else:
        _print_sum(reports, findings, seconds)
    if metrics is not None:
        _write_metrics(metrics, findings, sum(report.transfers for report in reports), seconds)
    return not findings


def metrics_file(path: Path) -> Path:
    """
    Return where the metrics are to be written, with symbolic links resolved.

    Raises:
        ValueError: The file cannot be made or replaced: it is a device, for example, or has no folder.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file: --metrics replaces the file that it names")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for --metrics")
    return path


def _total(findings: Sequence[Finding]) -> int:
    return sum(finding.total for finding in findings)


def _members(report: LedgerReport) -> dict[str, Any]:
    """Return a report as members of a JSON object."""
    return {**report._asdict(), "link": report.link.hex(), "findings": _all(report.findings)}


def _all(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [finding._asdict() for finding in findings]


def _print_part(part: LedgerReport | Finding) -> None:
    """Print the report of a ledger, or a finding about the schema."""
    if isinstance(part, Finding):
        say("schema:")
        _print_finding(part)
        return
    say(
        f"ledger {part.ledger}: {part.accounts:,} accounts, {part.transfers:,} transfers, "
        f"{part.entries:,} entries, {part.holds:,} holds, {part.events:,} events: {_findings(_total(part.findings))}"
    )
    if part.events:
        say(f"  head of its chain: {part.events} {part.link.hex()}")
    for finding in part.findings:
        _print_finding(finding)


def _print_finding(finding: Finding) -> None:
    say(f"  {finding.kind}: {finding.total:,}")
    for detail in finding.details:
        say(f"    {detail}")
    if finding.total > len(finding.details):
        say(f"    and {finding.total - len(finding.details):,} more")


def _print_sum(reports: list[LedgerReport], findings: int, seconds: float) -> None:
    transfers = sum(report.transfers for report in reports)
    entries = sum(report.entries for report in reports)
    say(
        f"all: {transfers:,} transfers and {entries:,} entries in {seconds:.1f} s "
        f"({transfers / seconds:,.0f} transfers/s): {_findings(findings)}"
    )


def _write_metrics(file: Path, findings: int, transfers: int, seconds: float) -> None:
    """Replace the file atomically: a reader sees the old outcome or the new one."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile  # noqa: PLC0415

    values = {
        "tallystick_audit_findings": findings,
        "tallystick_audit_transfers": transfers,
        "tallystick_audit_duration_seconds": seconds,
        "tallystick_audit_time_seconds": time.time(),
    }
    registry = CollectorRegistry()
    for name, metric in AUDITED.items():
        Gauge(name, metric.help, registry=registry).set(values[name])
    write_to_textfile(str(file), registry)


def _findings(number: int) -> str:
    return "clean" if not number else "1 finding" if number == 1 else f"{number:,} findings"
