"""Events: everything that was decided in a ledger, in one order."""

from collections.abc import Iterable

from tallystick_client.answers import EventPage
from tallystick_client.following import OUTAGE_SECONDS, PAGE_EVENTS, WAIT_MARGIN_SECONDS
from tallystick_client.operations import D, Followed, Resource, operation, series
from tallystick_client.request import Request, get

PATH = "/v1/events"


class Events(Resource[D]):
    """What can be read of the feed of the ledger."""

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
        Return the events behind a position; read on from its `next_after`.

        Args:
            after: The position; 0 is the beginning.

            limit: Events of the page at most, up to 100.

            wait_seconds: How long to wait for an event if there is none, up to 30.

            types: Only these, as `transfer.posted`.

            account: Only what names this account.
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
        Iterate over the events behind a position, and over each new one when it is there, for ever.

        No event is left out, none comes twice, and they come in order: when the stream breaks it is resumed, and where
        none is let through, pages are read. Remember the `position` of what you have dealt with, and begin there again.

        Args:
            after: The position; 0 is the beginning.

            types: Only these, as `transfer.posted`.

            account: Only what names this account.

            outage_seconds: How long the server may be away before that is raised.
        """
        return Followed(
            get(PATH, EventPage, after=after, limit=PAGE_EVENTS, type=_listed(types), account=account), outage_seconds
        )


def _listed(types: Iterable[str]) -> str | None:
    return ",".join(types) or None
