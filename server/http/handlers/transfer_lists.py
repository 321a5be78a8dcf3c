"""The handler that lists transfers."""

from uuid import UUID

from server.http import render
from server.http.call import Call
from server.http.cursors import Position, read_cursor
from server.http.listing import page
from server.http.query import TransfersQuery
from server.http.reply import Reply
from server.ledger.narrowed import seen
from server.ledger.transfer_lists import Chosen, TransferLists, place


class TransferListHandlers:
    """
    The handler of lists of transfers.

    Args:
        lists: Reads the lists.
    """

    def __init__(self, lists: TransferLists) -> None:
        self._lists = lists

    async def list_transfers(self, call: Call, query: TransfersQuery) -> Reply:
        """List posted transfers, newest first."""
        own = call.key.accounts
        chosen = Chosen(query.reference, query.account, query.kind, query.metadata, query.since, query.until, own)
        before = None if query.cursor is None else read_cursor(query.cursor, tuple[Position, UUID])
        if own is not None and query.account is not None and not own.has(query.account):
            return page((), query.limit, render.transfer, place)
        found = await self._lists.page(call.ledger_id, chosen, before=before, limit=query.limit)
        attempts = [attempt for attempt in (seen(attempt, own) for attempt in found.attempts) if attempt is not None]
        return page(attempts, query.limit, render.transfer, place, found.examined)
