"""Routes of events."""

from typing import Final

from server.events.feed import TYPES
from server.gate.keys import Role
from server.http.handlers.event_streams import EventStreamHandlers
from server.http.handlers.events import EventHandlers, EventsBody
from server.http.query import EventsQuery, EventStreamQuery
from server.http.route import Route, Text

_TAG: Final = "Events"

EVENTS: Final = (
    Route(
        "GET",
        "/v1/events",
        Role.READ,
        EventHandlers.list_events,
        "Read events, or wait for new ones",
        _TAG,
        query=EventsQuery,
        answers={200: EventsBody},
        problems=("position_not_reached",),
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/events/stream",
        Role.READ,
        EventStreamHandlers.stream_events,
        "Stream events as they happen",
        _TAG,
        query=EventStreamQuery,
        fields=("Last-Event-ID",),
        answers={
            200: Text(
                "text/event-stream",
                "Server-sent events, described as a browser parses them: `id` is the position, `event` is the type "
                "without `tallystick.` and the version, `data` is the event as in a page of events. After 15 s without "
                "an event, a comment is sent.",
                {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                        "event": {"type": "string", "enum": [*TYPES]},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": "#/components/schemas/Event"},
                        },
                    },
                },
            )
        },
        problems=("position_not_reached",),
        narrowed=True,
    ),
)
