"""How far a pass is: a bar that moves in a terminal, a line now and then anywhere else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from loadtests.client import LedgerClient
from loadtests.passes import Tally

BAR_SECONDS = 0.2
LINE_SECONDS = 5.0
# Leaves room for the figures in a terminal of 80 columns.
BAR_COLUMNS = 12


@asynccontextmanager
async def shown(console: Console, title: str, rows: int, tally: Tally, client: LedgerClient) -> AsyncIterator[None]:
    """Show the tally while the body runs, and a last time when it has ended."""
    if not console.is_terminal:
        watch = asyncio.create_task(_lines(console, title, rows, tally, client))
        try:
            yield
        finally:
            watch.cancel()
            console.print(_line(title, rows, tally, client))
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(BAR_COLUMNS),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        auto_refresh=False,
    ) as progress:
        task = progress.add_task(title, total=rows, note="")

        def draw() -> None:
            progress.update(task, completed=tally.rows, note=_note(tally, client), refresh=True)

        watch = asyncio.create_task(_bar(draw))
        try:
            yield
        finally:
            watch.cancel()
            draw()


async def _bar(draw: Callable[[], None]) -> None:
    while True:
        draw()
        await asyncio.sleep(BAR_SECONDS)


async def _lines(console: Console, title: str, rows: int, tally: Tally, client: LedgerClient) -> None:
    while True:
        await asyncio.sleep(LINE_SECONDS)
        console.print(_line(title, rows, tally, client))


def _line(title: str, rows: int, tally: Tally, client: LedgerClient) -> str:
    return f"{title}: {tally.rows:,} of {rows:,} rows, {_note(tally, client)}"


def _note(tally: Tally, client: LedgerClient) -> str:
    return f"{tally.rate():,.0f}/s, {client.in_flight} in flight, {len(tally.mismatches)} mismatches"
