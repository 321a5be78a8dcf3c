"""
Feed a real bank's books through the HTTP API and hold every answer against the bank's own figures.

1. Open every account the books need. 2. Post every row, each account in order: after each row the
account's balance is the bank's. 3. The sum of all balances is zero. 4. Post everything again under
the same keys: the same answers, marked as replayed, and no account has changed. 5. The audit.

Exit codes: 0 all of it holds, 1 a check failed, 2 it could not be run, 130 interrupted.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from loadtests.client import Client, ClientError, GaveUp, NoAnswer, UnexpectedAnswer
from loadtests.openloop import berka, passes
from loadtests.openloop.passes import Mismatch, Passes, Tally
from loadtests.processes import PROJECT, ServerError, run_command, run_program, tail
from loadtests.screen import Screen
from loadtests.servers import AUDIT_SECONDS_MAX, Server, own_server

LEDGER = "berka"
KEY_VARIABLE = "TALLYSTICK_KEY"
DATA = PROJECT.parent / "shared" / "data" / "berka" / "replay.csv.gz"
IN_FLIGHT = 64
# One connection each: with more, file descriptors run out before the server does.
IN_FLIGHT_MAX = 512
GOOD, CHECK_FAILED, NOT_RUN = 0, 1, 2
# Between two looks at how far a pass is.
PROGRESS_SECONDS = 0.2


@dataclass
class Report:
    """What a run found; *again* is None when it stopped before the replay."""

    rows: int
    books: int
    first: Tally = field(default_factory=Tally)
    again: Tally | None = None
    accounts: int = 0
    repeats: int = 0
    found: list[Mismatch] = field(default_factory=list)
    audit: str = "not run (no --audit-command)"
    audit_failed: bool = False

    def mismatches(self) -> list[Mismatch]:
        """Every check that did not hold, in the order of the steps."""
        again = self.again.mismatches if self.again is not None else []
        return [*self.first.mismatches, *again, *self.found]


def main(words: list[str]) -> int:
    """Run the replay as the command line says; the exit code."""
    return run_program(_run(_options(words)), uvloop.new_event_loop)


async def _run(options: argparse.Namespace) -> int:
    try:
        return await _replay(options, Screen())
    except (berka.DataError, ServerError, GaveUp) as error:
        print(f"replay: {error}", file=sys.stderr)
        return NOT_RUN
    except ClientError as error:
        print(f"replay: {error}", file=sys.stderr)
        refused_key = isinstance(error, UnexpectedAnswer) and error.status in (401, 403)
        return NOT_RUN if refused_key else CHECK_FAILED


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make replay",
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
    options = parser.parse_args(words)
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


async def _replay(options: argparse.Namespace, screen: Screen) -> int:
    rows = berka.read_rows(options.data, options.rows)
    if not rows:
        raise berka.DataError(f"{options.data} has no rows")
    if options.url is not None:
        report = await _both_passes(options.url, options.key, rows, options, screen)
        await _audit(report, options.audit_command, None, screen)
        return _summary(report, screen)
    screen.say("starting a server of its own")
    async with own_server() as server:
        try:
            report = await _both_passes(server.url, await server.create_key(LEDGER), rows, options, screen)
        except GaveUp as error:
            # Its log is gone with the server, and most likely says why.
            raise ServerError(f"{error}\n{tail(server.log)}") from error
        await _audit(report, options.audit_command, server, screen)
    return _summary(report, screen)


async def _audit(report: Report, command: str | None, own: Server | None, screen: Screen) -> None:
    if command:
        done = await run_command(shlex.split(command), AUDIT_SECONDS_MAX)
    elif own is not None:
        done = await own.audit()
    else:
        return
    if done.code == 0:
        report.audit = "clean"
        return
    report.audit, report.audit_failed = f"failed (exit {done.code})", True
    screen.say(done.last_lines)


async def _both_passes(
    url: str, key: str, rows: list[berka.Row], options: argparse.Namespace, screen: Screen
) -> Report:
    books, names = berka.books(rows), berka.accounts(rows)
    report = Report(len(rows), len(books))
    async with Client(url, key, options.in_flight) as client:
        try:
            await client.ask("GET", "/v1/accounts?limit=1")
        except NoAnswer as error:
            raise GaveUp(f"the server cannot be reached: {error}") from error
        await client.open_accounts(names, berka.CURRENCY)
        screen.say(f"{len(names)} accounts are open")
        work = Passes(client, books, options.in_flight, options.bulk)
        async with _shown(screen, "first pass", report.rows, report.first, client):
            await work.first(report.first)
        _say_what_was_bound_before(report.first, screen)
        if not report.first.stopped_early:
            await _check_and_replay(report, work, client, names, screen)
        report.repeats = client.repeats
    return report


async def _check_and_replay(report: Report, work: Passes, client: Client, names: list[str], screen: Screen) -> None:
    before = await passes.read_accounts(client)
    report.accounts = len(before)
    report.found += passes.sums_are_zero(before, "the first pass")
    report.found += passes.stands_are_as_answered(before, work.stands)
    report.again = Tally()
    async with _shown(screen, "replay", report.rows, report.again, client):
        await work.again(report.again)
    after = await passes.read_accounts(client)
    report.found += passes.sums_are_zero(after, "the replay")
    report.found += passes.nothing_changed(before, after, names)


@contextlib.asynccontextmanager
async def _shown(screen: Screen, title: str, rows: int, tally: Tally, client: Client) -> AsyncIterator[None]:
    """Show how far a pass is while the body runs, and a last time when it has ended."""

    def line() -> str:
        wrong = f"{len(tally.mismatches)} mismatches"
        return f"{title}: {tally.rows:,} of {rows:,} rows, {tally.rate:,.0f}/s, {client.in_flight} in flight, {wrong}"

    async def watch() -> None:
        while True:
            screen.progress(line())
            await asyncio.sleep(PROGRESS_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        screen.say(line())


def _say_what_was_bound_before(first: Tally, screen: Screen) -> None:
    if first.already_bound == first.transfers:
        screen.say("every key was bound before this run: the file is already in this ledger")
    elif first.already_bound:
        screen.say(f"{first.already_bound:,} keys were bound before this run: part of the file")


def _summary(report: Report, screen: Screen) -> int:
    mismatches = report.mismatches()
    for mismatch in mismatches:
        screen.say(f"MISMATCH {mismatch}")
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
        screen.say(f"{name:<12}{text}")
    return CHECK_FAILED if mismatches or report.audit_failed else GOOD


def _speed(tally: Tally) -> str:
    early = ", stopped early: too many mismatches" if tally.stopped_early else ""
    return f"{tally.rate:,.0f} transfers/s, {tally.seconds:.1f} s{early}"
