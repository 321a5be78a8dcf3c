"""The handler of previews: the answer that a transfer or a bulk would get if it were posted now."""

from functools import partial

import msgspec

from server.http import models
from server.http.call import Call
from server.http.handlers.transfers import check_shape, not_bound, requested
from server.http.items import answer_bulk, item_result
from server.http.narrowing import Narrowing
from server.http.problems import Problem
from server.http.reply import Reply
from server.http.wire.body import decode
from server.ledger.preview import Previewer
from server.ledger.transfers import Bound

# A preview needs no idempotency key and binds none.
_NO_KEY = ""
_transfer = msgspec.json.Decoder(models.TransferCreate)
_bulk = msgspec.json.Decoder(models.TransferBulk)


class PreviewHandlers:
    """
    Handlers of previews.

    Args:
        previewer: Decides transfers without posting them.

        narrowing: Refuses transfers of accounts that a key does not see.
    """

    def __init__(self, previewer: Previewer, narrowing: Narrowing) -> None:
        self._previewer = previewer
        self._narrowing = narrowing

    async def preview_transfers(self, call: Call, body: models.Preview) -> Reply:
        """Answer as the transfer or the bulk in the body would be answered now."""
        if body.transfers is not None:
            bulk = decode(_bulk, call.body)
            preview = partial(self._previewer.preview, call.ledger_id, atomic=bulk.atomic)
            refuse = partial(self._narrowing.problems, call)
            # A preview makes nothing, so a later item never finds the transfer of an earlier one.
            post = preview if bulk.atomic else partial(self._narrowing.post_whole, call, post=preview)
            return await answer_bulk(call, bulk, refuse, post)
        transfer = decode(_transfer, call.body)
        check_shape(transfer)
        request = requested(call, _NO_KEY, b"", transfer)
        preview = partial(self._previewer.preview, call.ledger_id, atomic=False)
        [outcome] = await self._narrowing.post_whole(call, [request], preview)
        result = outcome if isinstance(outcome, Bound | Problem) else not_bound(call, outcome)
        return Reply(200, item_result(call, result))
