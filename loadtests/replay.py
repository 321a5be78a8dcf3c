"""
Feed a real bank's books through the HTTP API and hold every answer against the bank's own figures.

1. Open every account the books need. 2. Post every row, each account in order: after each row the
account's balance is the bank's. 3. The sum of all balances is zero. 4. Post everything again under
the same keys: the same answers, marked as replayed, and no account has changed. 5. The audit.

Exit codes: 0 all of it holds, 1 a check failed, 2 it could not be run, 130 interrupted.
"""

import argparse
import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from loadtests import berka, checks
from loadtests.answers import ClientError, GaveUp, UnexpectedAnswer
from loadtests.client import LedgerClient
from loadtests.own_server import (
    AUDIT_SECONDS_MAX,
    PROJECT,
    OwnServer,
    ServerError,
    own_server,
    run_command,
    said,
)
from loadtests.passes import Mismatch, Passes, Tally
from loadtests.progress import shown

LEDGER = "berka"
KEY_VARIABLE = "TALLYSTICK_KEY"
DATA = PROJECT.parent / "shared" / "data" / "berka" / "replay.csv.gz"
IN_FLIGHT = 64
# One connection each: with more, file descriptors run out before the server does.
IN_FLIGHT_MAX = 512
GOOD, CHECK_FAILED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130


class Report(msgspec.Struct):
    """What a run found; *again* is None when it stopped before the replay."""

    rows: int
    books: int
    first: Tally
    again: Tally | None = None
    accounts: int = 0
    repeats: int = 0
    found: list[Mismatch] = msgspec.field(default_factory=list)
    audit: str = "not run (no --audit-command)"
    audit_failed: bool = False

    def mismatches(self) -> list[Mismatch]:
        """Every check that did not hold, in the order of the steps."""
        again = self.again.mismatches if self.again is not None else []
        return [*self.first.mismatches, *again, *self.found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the replay as the command line says; the exit code."""
    options = _options(arguments)
    # Nothing printed here is markup: key names and problem texts may hold square brackets.
    out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
    # A supervisor's SIGTERM ends the run as Ctrl-C does, its own server included.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options, out)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (berka.DataError, ServerError, GaveUp) as error:
        print(f"replay: {error}", file=sys.stderr)
        return NOT_RUN
    except ClientError as error:
        print(f"replay: {error}", file=sys.stderr)
        refused_key = isinstance(error, UnexpectedAnswer) and error.status in (401, 403)
        return NOT_RUN if refused_key else CHECK_FAILED


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.replay",
        description="Replay a real bank's books through the HTTP API and check every balance.",
        epilog="Without --url it starts a server of its own and audits it at the end.",
    )
    parser.add_argument("--url", help="a running server, such as http://127.0.0.1:8080")
    parser.add_argument("--key", help=f"a write key of the ledger; or set {KEY_VARIABLE}")
    parser.add_argument("--data", type=Path, default=DATA, help="the books; default %(default)s")
    parser.add_argument("--rows", type=_count, help="only the first ROWS rows")
    parser.add_argument(
        "--in-flight",
        type=_count,
        default=IN_FLIGHT,
        help=f"accounts posted at once, at most {IN_FLIGHT_MAX}; default %(default)s",
    )
    parser.add_argument("--bulk", action="store_true", help="post in atomic sets of several rows")
    parser.add_argument("--audit-command", help="what audits the server at --url, as one string")
    options = parser.parse_args(arguments)
    options.key = options.key or os.environ.get(KEY_VARIABLE)
    if options.in_flight > IN_FLIGHT_MAX:
        parser.error(f"--in-flight is at most {IN_FLIGHT_MAX}")
    if options.url is None:
        return options
    if not options.url.startswith(("http://", "https://")):
        parser.error("--url starts with http:// or https://")
    if not options.key:
        parser.error(f"--url needs --key or {KEY_VARIABLE}")
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number from 1 is needed")
    return int(text)


def _run(options: argparse.Namespace, out: Console) -> int:
    rows = berka.read_rows(options.data, options.rows)
    if not rows:
        raise berka.DataError(f"{options.data} has no rows")
    with ExitStack() as stack:
        url, key, own = options.url, options.key, None
        if url is None:
            out.print("starting a server of its own")
            own = stack.enter_context(own_server())
            url, key = own.url, own.create_key(LEDGER)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                report = runner.run(_replay(url, key, rows, options, out))
            except GaveUp as error:
                # Its log is gone with the server, and most likely says why.
                raise ServerError(f"{error}\n{own.log_tail()}" if own else str(error)) from error
        _audit(report, options.audit_command, own, out)
    return _summary(report, out)


def _audit(report: Report, command: str | None, own: OwnServer | None, out: Console) -> None:
    if command:
        done = run_command(shlex.split(command), AUDIT_SECONDS_MAX, os.environ)
    elif own is not None:
        done = own.audit()
    else:
        return
    if done.returncode == 0:
        report.audit = "clean"
        return
    report.audit, report.audit_failed = f"failed (exit {done.returncode})", True
    out.print(said(done))


async def _replay(url: str, key: str, rows: list[berka.Row], options: argparse.Namespace, out: Console) -> Report:
    books = berka.books(rows)
    names = berka.accounts(rows)
    first = Tally(mismatches=[])
    report = Report(rows=len(rows), books=len(books), first=first)
    async with LedgerClient(url, key, connections_max=options.in_flight) as client:
        await client.check_reachable()
        await client.open_accounts(names, berka.CURRENCY)
        out.print(f"{len(names)} accounts are open")
        passes = Passes(client, books, options.in_flight, options.bulk)
        async with shown(out, "first pass", len(rows), first, client):
            await passes.first(first)
        _say_what_was_bound_before(first, out)
        if not first.stopped_early:
            await _check_and_replay(report, passes, client, names, out)
        report.repeats = client.repeats
    return report


async def _check_and_replay(
    report: Report, passes: Passes, client: LedgerClient, names: list[str], out: Console
) -> None:
    before = await checks.read_accounts(client)
    report.accounts = len(before)
    report.found += checks.sums_are_zero(before, "the first pass")
    report.found += checks.stands_are_as_answered(before, passes.memory.stands)
    report.again = Tally(mismatches=[])
    async with shown(out, "replay", report.rows, report.again, client):
        await passes.again(report.again)
    after = await checks.read_accounts(client)
    report.found += checks.sums_are_zero(after, "the replay")
    report.found += checks.nothing_changed(before, after, names)


def _say_what_was_bound_before(first: Tally, out: Console) -> None:
    if first.already_bound == first.transfers:
        out.print("every key was bound before this run: the file is already in this ledger")
    elif first.already_bound:
        out.print(f"{first.already_bound:,} keys were bound before this run: part of the file")


def _summary(report: Report, out: Console) -> int:
    mismatches = report.mismatches()
    for mismatch in mismatches:
        out.print(f"MISMATCH {mismatch}")
    lines = {
        "rows": f"{report.first.rows:,} of {report.rows:,}, on {report.books:,} accounts",
        "transfers": f"{report.first.transfers:,}",
        "first pass": _speed(report.first),
        "replay": _speed(report.again) if report.again is not None else "not run",
        "repeats": f"{report.repeats:,} after 429, 503 or a lost connection",
        "balances": f"{report.accounts:,} accounts read" if report.accounts else "not read",
        "mismatches": f"{len(mismatches):,}",
        "audit": report.audit,
    }
    for name, text in lines.items():
        out.print(f"{name:<12}{text}")
    return CHECK_FAILED if mismatches or report.audit_failed else GOOD


def _speed(tally: Tally) -> str:
    early = ", stopped early: too many mismatches" if tally.stopped_early else ""
    return f"{tally.rate():,.0f} transfers/s, {tally.seconds:.1f} s{early}"


if __name__ == "__main__":
    sys.exit(main())
