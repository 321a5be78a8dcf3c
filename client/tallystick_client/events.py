"""Events: reads the feed of everything that was decided in a ledger, in one order."""

from collections.abc import Iterable

from tallystick_client.answers import EventPage
from tallystick_client.following import OUTAGE_SECONDS, PAGE_EVENTS, WAIT_MARGIN_SECONDS
from tallystick_client.operations import D, Followed, Resource, operation, series
from tallystick_client.request import Request, get

PATH = "/v1/events"


class Events(Resource[D]):
    """Operations on the feed of the ledger."""

    @operation
    def list(
        self,
        *,
        after: int = 0,
        limit: int = PAGE_EVENTS,
        wait_seconds: int = 0,
        types: Iterable[str] = (),
        account: str | None = None,
    ) -> Request[EventPage]:
        """
        Return a page of the events after a position; read on after its `next_after`.

        Args:
            after: The position; 0 is the beginning.

            limit: Most events of the page, up to 100.

            wait_seconds: How long to wait for an event if there is none, up to 30.

            types: Only events of these types, for example `transfer.posted`.

            account: Only events about this account.
        """
        wait = wait_seconds or None
        seconds_max = wait_seconds + WAIT_MARGIN_SECONDS
        return get(
            PATH, EventPage, seconds_max, after=after, limit=limit, wait=wait, type=_listed(types), account=account
        )

    @series
    def follow(
        self,
        *,
        after: int = 0,
        types: Iterable[str] = (),
        account: str | None = None,
        outage_seconds: float = OUTAGE_SECONDS,
    ) -> Followed:
        """
        Iterate over the events after a position, then over new ones as they happen, for ever.

        Events come in order, each exactly once. A stream that breaks is resumed; if a proxy blocks streams, pages are
        read instead. Store the `position` of the last event that you have handled, and pass it as *after* next time.

        Args:
            after: The position; 0 is the beginning.

            types: Only events of these types, for example `transfer.posted`.

            account: Only events about this account.

            outage_seconds: How long the server may be unavailable before an error is raised.
        """
        return Followed(
            get(PATH, EventPage, after=after, limit=PAGE_EVENTS, type=_listed(types), account=account), outage_seconds
        )


def _listed(types: Iterable[str]) -> str | None:
    return ",".join(types) or None
