"""The handler of previews: what a transfer or a bulk would be answered if it were posted now."""

from functools import partial

import msgspec

from server.http import models
from server.http.body import decode
from server.http.call import Call
from server.http.items import answer_bulk, item_result
from server.http.reply import Reply
from server.http.transfers import check_shape, not_bound, requested
from server.ledger.preview import Previewer
from server.ledger.transfers import Bound

# No key is bound, and none is asked for.
_NO_KEY = ""
_transfer = msgspec.json.Decoder(models.TransferCreate)
_bulk = msgspec.json.Decoder(models.TransferBulk)


class PreviewHandlers:
    """
    Handlers of previews.

    Args:
        previewer: Decides them.
    """

    def __init__(self, previewer: Previewer) -> None:
        self._previewer = previewer

    async def preview_transfers(self, call: Call, body: models.Preview) -> Reply:
        """Say what the body, of a transfer or of a bulk, would be answered now."""
        if body.transfers is not None:
            bulk = decode(_bulk, call.body)
            return await answer_bulk(call, bulk, partial(self._previewer.preview, call.ledger_id, atomic=bulk.atomic))
        transfer = decode(_transfer, call.body)
        check_shape(transfer)
        request = requested(call, _NO_KEY, b"", transfer)
        [outcome] = await self._previewer.preview(call.ledger_id, [request], atomic=False)
        return Reply(200, item_result(call, outcome if isinstance(outcome, Bound) else not_bound(outcome)))
