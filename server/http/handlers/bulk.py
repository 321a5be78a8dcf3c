"""The handler that posts many transfers: each independently, or all or none."""

from functools import partial

from server.http import models
from server.http.bulk_admission import BulkAdmission
from server.http.call import Call
from server.http.handlers.transfers import in_use
from server.http.items import answer_bulk
from server.http.narrowing import Narrowing, Post
from server.http.reply import Reply
from server.ledger.limits import BULK_ITEMS_MAX
from server.ledger.posting import KeyInUseError, PostingLane


class BulkHandlers:
    """
    Handlers of bulks of transfers.

    Args:
        posting: Posts transfers.

        narrowing: Refuses transfers of accounts that a key does not see.
    """

    def __init__(self, posting: PostingLane, narrowing: Narrowing) -> None:
        self._posting = posting
        self._narrowing = narrowing
        self._admission = BulkAdmission()

    async def make_room(self, call: Call) -> None:
        """
        Wait for room for the transfers of a bulk before its body is decoded, which is most of the worker's work.

        Raises:
            QueueFullError: There was no room in time; nothing was done.
            ConnectionError: The caller has gone; nothing was done.
        """
        items = _count_items(call.body)
        call.room = await self._admission.enter(call.ledger_id, items)
        if call.gone:
            raise ConnectionResetError
        self._posting.check_room(call.ledger_id, items)

    async def create_transfers(self, call: Call, body: models.TransferBulk) -> Reply:
        """Post up to 1,000 transfers in order, and answer with the result of each."""
        post: Post = partial(
            self._posting.post_many,
            call.ledger_id,
            atomic=body.atomic,
            began=None if call.room is None else call.room.began,
            on_wait=call.release_place,
        )
        refuse = partial(self._narrowing.problems, call)
        try:
            if body.atomic:
                return await answer_bulk(call, body, refuse, post)
            return await answer_bulk(call, body, refuse, partial(self._narrowing.post_in_parts, call, post=post))
        except KeyInUseError:
            raise in_use() from None


def _count_items(body: bytes) -> int:
    """
    Estimate how many items an undecoded bulk has, by counting `"key"`, of which each item has one.

    The same text in metadata counts too, and an escaped spelling does not. Then a bulk only waits a little longer or
    shorter than it should.
    """
    return min(max(body.count(b'"key"'), 1), BULK_ITEMS_MAX)
