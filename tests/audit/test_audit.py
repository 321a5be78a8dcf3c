"""The audit: silent on real books, and never silent on wrong ones."""

import asyncio
import os
import time
from pathlib import Path

import asyncpg
import pytest

from server.ledger.audit import AuditError
from server.ledger.audit_pages import SAMPLES_MAX
from server.process.commands import audit as command
from server.telemetry.metrics import AUDITED
from tests.audit.planted import ALICE, KEY, PLANTED
from tests.audit.planted_holds import PLANTED_HOLDS
from tests.audit.traffic import ACCOUNTS, LEDGER, NEIGHBOUR
from tests.support.audits import look, look_by_pages, plant
from tests.support.books import check_books
from tests.support.command import NO_REDIS, call, run
from tests.support.postgres import administer
from tests.support.service import in_process
from tests.telemetry.documented import Series, series

# What only a look at the whole ledger finds, and what else of accounts that had holds.
WHOLE_ALONE = {"key_constraint", "key_bound_twice", "hold_not_swept"}
OF_HOLDERS = {"floor_broken", "ceiling_broken", "version_behind"}
HOLDERS = [case.values[0] for case in PLANTED_HOLDS]


async def test_real_traffic_is_clean(books: str) -> None:
    """Refusals, replays, changed limits, linked sets, the widest numbers and holds are no findings; all is counted."""
    findings, reports = await look(books)
    assert findings == {}
    await check_books(books)
    [rows] = await administer(books, """
        SELECT count(*) AS rows, count(*) FILTER (WHERE moves) AS moved,
               count(*) FILTER (WHERE kind = 'hold' AND refusal IS NULL) AS holds,
               count(*) FILTER (WHERE refusal IS NOT NULL) AS refused
        FROM tallystick.transfers""")  # fmt: skip
    assert sum(report.transfers for report in reports) == rows["rows"] > rows["moved"] + rows["holds"] > 0
    assert sum(report.entries for report in reports) == 2 * rows["moved"]
    assert sum(report.holds for report in reports) == rows["holds"] > 0 < rows["refused"]
    assert {report.ledger: report.accounts for report in reports} == {LEDGER: ACCOUNTS, NEIGHBOUR: 2}


@pytest.mark.parametrize(("statements", "kinds", "texts"), PLANTED + PLANTED_HOLDS)
async def test_planted(books: str, statements: list[str], kinds: dict[str, int], texts: list[str]) -> None:
    """What was planted is found, counted and named, and nothing else is; page by page it is found as well."""
    await plant(books, *statements)
    findings, reports = await look(books)
    assert {finding.kind: finding.total for finding in findings.values()} == kinds, findings
    said = "\n".join(detail for finding in findings.values() for detail in finding.details)
    assert [text for text in texts if text not in said] == [], said
    assert not any(report.findings for report in reports if report.ledger == NEIGHBOUR)
    by_pages = await look_by_pages(books, 40, LEDGER)
    alone = WHOLE_ALONE | OF_HOLDERS if statements in HOLDERS else WHOLE_ALONE
    assert bool(by_pages) == bool(kinds.keys() - alone), by_pages


async def test_many_errors_are_counted_and_some_are_told(books: str) -> None:
    """However much is wrong, a report stays readable, and its totals are right."""
    await plant(books, f"""
        INSERT INTO accounts (ledger_id, id, currency, balance, created_at)
        SELECT {KEY}, 'ghost:' || n, 'EUR', CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END, now()
        FROM generate_series(1, 500) AS n""")  # fmt: skip
    findings, _ = await look(books)
    assert findings["balance_without_entry"].total == 500
    assert len(findings["balance_without_entry"].details) == SAMPLES_MAX
    ended = await call("audit", database_url=books)
    assert ended.code == 1
    assert "  balance_without_entry: 500\n" in ended.out
    assert f"    and {500 - SAMPLES_MAX} more\n" in ended.out
    # Without any event either.
    assert ended.out.count("ghost:") == 2 * SAMPLES_MAX


async def test_one_ledger_alone(books: str) -> None:
    """An audit of one ledger says nothing of another."""
    await plant(books, f"UPDATE accounts SET balance = balance + 5 WHERE {ALICE}")
    findings, reports = await look(books, NEIGHBOUR)
    assert findings == {}
    assert [report.ledger for report in reports] == [NEIGHBOUR]
    with pytest.raises(AuditError, match="no ledger elsewhere"):
        await look(books, "elsewhere")


async def test_exit_codes(books: str, postgres_url: str) -> None:
    """0 when clean, 1 when something is found, 2 when it could not be looked at."""
    clean = await run("audit", database_url=books)
    assert (clean.code, clean.err) == (0, "")
    assert clean.out.splitlines()[-1].endswith("transfers/s): clean")
    await plant(books, f"UPDATE accounts SET balance = balance + 5 WHERE {ALICE}")
    found = await call("audit", database_url=books)
    assert (found.code, found.err) == (1, "")
    assert f"ledger books: {ACCOUNTS} accounts" in found.out
    assert "account alice: balance 387, its last entry" in found.out
    assert found.out.splitlines()[-1].endswith(": 2 findings")
    assert (await call("audit", "--ledger", NEIGHBOUR, database_url=books)).code == 0
    nowhere = "postgresql://postgres@127.0.0.1:1/tallystick"
    for words, url, text in (
        (("--ledger", "elsewhere"), books, "there is no ledger elsewhere"),
        ((), postgres_url, "are missing: run `tallystick migrate`"),
        ((), nowhere, "Postgres cannot be reached"),
    ):
        failed = await call("audit", *words, database_url=url, redis_url=NO_REDIS)
        assert (failed.code, failed.out) == (2, ""), failed
        assert text in failed.err
        assert "Traceback" not in failed.err


async def test_outcome_for_prometheus(books: str, tmp_path: Path) -> None:
    """A complete audit replaces the file, whatever it found; one that cannot be made leaves it as it was."""
    file = tmp_path / "tallystick.prom"
    before = time.time()
    assert (await call("audit", "--metrics", str(file), database_url=books)).code == 0
    clean = series(file.read_text())
    assert {name for name, _ in clean} == AUDITED.keys()
    rows = await administer(books, "SELECT count(*) FROM tallystick.transfers")
    assert clean[Series("tallystick_audit_transfers", ())] == rows[0][0]
    assert clean[Series("tallystick_audit_findings", ())] == 0
    assert before <= clean[Series("tallystick_audit_time_seconds", ())] <= time.time()
    await plant(books, f"UPDATE accounts SET balance = balance + 5 WHERE {ALICE}")
    assert (await call("audit", "--metrics", str(file), database_url=books)).code == 1
    wrong = file.read_text()
    assert series(wrong)[Series("tallystick_audit_findings", ())] == 2
    failed = await call("audit", "--metrics", str(file), "--ledger", "elsewhere", database_url=books)
    assert (failed.code, file.read_text()) == (2, wrong)
    assert os.listdir(tmp_path) == [file.name]


async def test_a_file_of_metrics_that_cannot_be_replaced(books: str, tmp_path: Path) -> None:
    """A device, pipe or folder is refused before the audit begins, and stays what it was; a missing folder too."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for file, sentence in (
        (pipe, f"{pipe} is not a regular file: --metrics replaces the file that it names"),
        (link, f"{pipe} is not a regular file: --metrics replaces the file that it names"),
        (tmp_path, f"{tmp_path} is not a regular file: --metrics replaces the file that it names"),
        (tmp_path / "none" / "x.prom", f"there is no folder {tmp_path / 'none'} for --metrics"),
    ):
        end = await call("audit", "--metrics", str(file), database_url=books)
        assert end == (2, "", f"tallystick: {sentence}\n")
    assert (link.is_symlink(), pipe.is_fifo()) == (True, True)


async def test_beside_running_traffic(books: str) -> None:
    """Each audit sees one instant: postings beside it are no findings, and no posting waits for it."""
    async with in_process(books) as service:
        client = await service.client(LEDGER)
        done = asyncio.Event()

        async def pay() -> int:
            answers = 0
            while not done.is_set():
                assert (await client.transfer("world", "alice", 2)).status == 201
                assert (await client.transfer("alice", "spare", 1)).status == 201
                answers += 2
            return answers

        payers = [asyncio.create_task(pay()) for _ in range(8)]
        seen = []
        for _ in range(5):
            findings, reports = await look(books, LEDGER)
            assert findings == {}
            seen.append(reports[0].transfers)
        done.set()
        assert sum(await asyncio.gather(*payers)) > 0
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


async def test_progress(books: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An audit that takes long says on standard error what it is at."""
    monkeypatch.setattr(command, "PROGRESS_SECONDS", 0.01)
    holder = await asyncpg.connect(books)
    async with holder.transaction():
        await holder.execute("LOCK TABLE tallystick.transfers IN ACCESS EXCLUSIVE MODE")
        running = asyncio.create_task(command.report_audit(books, None))
        said = ""
        while "ledger books: holds that are due" not in said:
            await asyncio.sleep(0)
            said += capsys.readouterr().err
    assert await running
    await holder.close()
    assert "ledger neighbour" in capsys.readouterr().out
