"""Pages of lists, bounded by rows and by bytes."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from server.http import render
from server.http.cursors import write_cursor
from server.http.limits import PAGE_BYTES_MAX
from server.http.reply import Reply

T = TypeVar("T")


def page(
    items: Sequence[T],
    limit: int,
    show: Callable[[T], bytes],
    position: Callable[[T], object],
    examined: object = None,
) -> Reply:
    """
    Return a page of *items*: as many as *limit*, or fewer if they are large, but at least one.

    Args:
        items: Up to one more than the page may have, which shows that there are more.

        show: Renders an item as JSON.

        position: Returns what the cursor of a page holds about its last item.

        examined: The content of the cursor if all *items* fit but rows without a match were skipped behind them, so
            that more may follow.
    """
    rows: list[bytes] = []
    size = 0
    for item in items[:limit]:
        row = show(item)
        size += len(row)
        if rows and size > PAGE_BYTES_MAX:
            break
        rows.append(row)
    last = position(items[len(rows) - 1]) if len(rows) < len(items) else examined
    return Reply(200, render.page(rows, None if last is None else write_cursor(last)))
