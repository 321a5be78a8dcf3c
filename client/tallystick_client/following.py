"""Follows events: reopens a stream where it broke, and reads pages if there is no stream."""

import itertools
from typing import Any, NamedTuple

import msgspec

from tallystick_client.answers import Event, EventPage
from tallystick_client.errors import AddressError, ProblemError, TallystickError, UnavailableError
from tallystick_client.request import Request
from tallystick_client.rules import (
    PAUSE_SECONDS,
    PAUSE_SECONDS_MAX,
    Broken,
    Course,
    Done,
    Failed,
    Item,
    Pause,
    Rules,
    Send,
    judge,
    pause,
)

# Seconds of silence after which a stream counts as dead; the server sends something every 15 s.
SILENCE_SECONDS_MAX = 40.0
# Seconds that the server waits for an event of a page if there is no stream, and additional seconds for its answer.
WAIT_SECONDS, WAIT_MARGIN_SECONDS = 20, 10.0
# Events of a page: the server's maximum.
PAGE_EVENTS = 100
# Default seconds without an answer after which following fails: longer than a failover.
OUTAGE_SECONDS = 300.0
# Most bytes of one line of a stream: more than the largest event has.
LINE_BYTES_MAX = 1_048_576


class Open(NamedTuple):
    """Open a stream that breaks after so many seconds of silence; the result is None if it opened, Answer or Broken."""

    request: Request[Any]
    silence_seconds: float


class Read(NamedTuple):
    """Read more of the stream; the result is bytes, empty at its end, or Broken."""


class Lines:
    """
    Parses server-sent events (HTML, section 9.2.6). An event whose end has not arrived does not count.

    Attributes:
        retry_seconds: The pause that the server asks for before the client reconnects.
    """

    def __init__(self) -> None:
        self.retry_seconds = PAUSE_SECONDS
        self._rest = b""
        self._data: list[bytes] = []
        self._id: int | None = None

    def take(self, piece: bytes) -> "list[Event | int]":
        """
        Return the events that a piece of the stream completes, and positions that the stream has passed.

        Raises:
            ValueError: The piece does not come from a Tallystick server.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise ValueError("a line is too long")
        found: list[Event | int] = []
        for line in lines:
            name, _, value = line.removesuffix(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if name == b"id":
                self._id = int(value)
            elif name == b"data":
                self._data.append(value)
            elif name == b"retry":
                self.retry_seconds = int(value) / 1_000
            elif not name and not value and not line.startswith(b":"):
                if self._data:
                    found.append(msgspec.json.decode(b"\n".join(self._data), type=Event))
                elif self._id is not None:
                    found.append(self._id)
                self._data, self._id = [], None
        return found


class Following:
    """
    Makes the course that follows events.

    Events come in order, and none is left out. One comes twice only if the caller begins again at an earlier position.

    Args:
        rules: The rules of the client.

        page: The request for the first page; its parameters are the position and the filters.

        outage_seconds: How long the server may be unavailable.
    """

    def __init__(self, rules: Rules, page: Request[EventPage], outage_seconds: float) -> None:
        self._clock = rules.clock
        self._page = page
        self._outage_seconds = outage_seconds
        self._position = int(str(page.parameters["after"]))
        self._heard_at = self._clock()
        self._retry_seconds = PAUSE_SECONDS

    def course(self) -> Course[None]:
        """
        Hand over events for ever: those of a stream and, when it has ended, those of pages until one is empty.

        Raises:
            TallystickError: The server refuses the request itself, or is unavailable for too long.
        """
        pause_seconds = PAUSE_SECONDS
        failed: Failed[Any] | None = None
        for reads_stream in itertools.cycle((True, False)):
            broke = failed is not None
            failed = yield from self._read_stream() if reads_stream else self._read_pages(WAIT_SECONDS if broke else 0)
            if failed is None:
                pause_seconds = PAUSE_SECONDS
                if reads_stream:
                    yield Pause(pause(0.0, self._retry_seconds))
                continue
            _check(failed, final=not reads_stream)
            if self._clock() - self._heard_at > self._outage_seconds:
                raise failed.error
            yield Pause(pause(min(failed.asked_seconds, self._outage_seconds), pause_seconds))
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    def _read_stream(self) -> Course[Failed[Any] | None]:
        """Hand over the events of a stream; return why it failed, or None if it ended after bringing something."""
        lines = Lines()
        request = self._at("/v1/events/stream", limit=None)
        answer = yield Open(request, SILENCE_SECONDS_MAX)
        if answer is not None:
            return _failed(judge(request, answer))
        of_use = False
        while True:
            piece = yield Read()
            if isinstance(piece, Broken):
                return None if of_use else Failed(UnavailableError(piece.reason), again=True)
            if not piece:
                return None if of_use else Failed(UnavailableError("the stream ended before anything came"), again=True)
            try:
                found = lines.take(piece)
            except (ValueError, msgspec.DecodeError) as error:
                return Failed(UnavailableError(f"the server did not send a stream of events: {error}"), again=True)
            self._heard_at, self._retry_seconds = self._clock(), lines.retry_seconds
            for each in found:
                of_use = True
                yield from self._hand_over(each)

    def _read_pages(self, wait_seconds: int) -> Course[Failed[Any] | None]:
        """Hand over the events of pages until one is empty; return why one could not be read, or None."""
        while True:
            request = self._at(self._page.path, wait=wait_seconds)
            judged = judge(request, (yield Send(request, wait_seconds + WAIT_MARGIN_SECONDS)))
            if not isinstance(judged, Done):
                return judged
            self._heard_at = self._clock()
            for event in judged.value.data:
                yield from self._hand_over(event)
            self._position = max(self._position, judged.value.next_after)
            if not judged.value.data:
                return None

    def _hand_over(self, found: Event | int) -> Course[None]:
        position = found.position if isinstance(found, Event) else found
        # Skip known positions: a proxy may replay a part of a stream.
        if position > self._position:
            if isinstance(found, Event):
                yield Item(found)
            # Move on only now, when the caller has asked for the next event.
            self._position = position

    def _at(self, path: str, **parameters: object) -> Request[EventPage]:
        asked = {**self._page.parameters, "after": self._position, **parameters}
        return Request(method="GET", path=path, answer=EventPage, parameters=asked)


def _failed(judged: Done[Any] | Failed[Any]) -> Failed[Any]:
    if isinstance(judged, Failed):
        return judged
    return Failed(UnavailableError("the server answered with something other than a stream"), again=True)


def _check(failed: Failed[Any], *, final: bool) -> None:
    """
    Check that another attempt can help.

    Raises:
        TallystickError: The server itself refuses the request.
    """
    error: TallystickError = failed.error
    # A proxy between may not support streams but still pass on pages.
    between = isinstance(error, AddressError) or (isinstance(error, ProblemError) and not error.code)
    if not failed.again and (final or not between):
        raise error
