"""Following events: a stream that is opened again wherever it broke, and pages where there is no stream."""

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

# Seconds of silence after which a stream is taken to be dead: the server says something every 15 s.
SILENCE_SECONDS_MAX = 40.0
# Seconds that a page is waited for where there is no stream, and what the answer may take beyond.
WAIT_SECONDS, WAIT_MARGIN_SECONDS = 20, 10.0
# Events of a page: the most that the server gives.
PAGE_EVENTS = 100
# Seconds after which a server without an answer is given up, unless the caller says otherwise: longer than a failover.
OUTAGE_SECONDS = 300.0
# Bytes of one line of a stream: above the largest event.
LINE_BYTES_MAX = 1_048_576


class Open(NamedTuple):
    """Open a stream, which so many seconds of silence break. What comes back: None if it is open, Answer or Broken."""

    request: Request[Any]
    silence_seconds: float


class Read(NamedTuple):
    """Read on in the stream: bytes, none at its end, or Broken."""


class Lines:
    """
    Takes server-sent events apart (HTML, section 9.2.6). What has come of an event that did not end is no event.

    Attributes:
        retry_seconds: After how long the server wants its client back.
    """

    def __init__(self) -> None:
        self.retry_seconds = PAUSE_SECONDS
        self._rest = b""
        self._data: list[bytes] = []
        self._id: int | None = None

    def take(self, piece: bytes) -> "list[Event | int]":
        """
        Return what a piece of the stream completes: events, and positions that the stream has passed.

        Raises:
            ValueError: It is not what the server sends.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise ValueError("a line has no end")
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
    The course of a reader of events.

    Each event comes at least once and in order; none is left out. One comes twice only to a reader that begins anew at
    an earlier position.

    Args:
        rules: Of the client.

        page: The request of the first page: its parameters say where to begin and what is wanted.

        outage_seconds: How long the server may be away.
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
        Hand over events for ever: those of a stream and, when it has ended, those of pages until none is left.

        Raises:
            TallystickError: The server says no to the request itself, or is away for too long.
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
        """Hand over what a stream brings; return why it failed, or None where it has ended or was of use."""
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
                return None if of_use else Failed(UnavailableError("the stream has ended at once"), again=True)
            try:
                found = lines.take(piece)
            except (ValueError, msgspec.DecodeError) as error:
                return Failed(UnavailableError(f"what came is no stream of events: {error}"), again=True)
            self._heard_at, self._retry_seconds = self._clock(), lines.retry_seconds
            for each in found:
                of_use = True
                yield from self._hand_over(each)

    def _read_pages(self, wait_seconds: int) -> Course[Failed[Any] | None]:
        """Hand over pages until one is empty; return why one could not be read."""
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
        # A proxy that replays a part of a stream tells what is known already.
        if position > self._position:
            if isinstance(found, Event):
                yield Item(found)
            # Only when its reader has come back for the next one.
            self._position = position

    def _at(self, path: str, **parameters: object) -> Request[EventPage]:
        asked = {**self._page.parameters, "after": self._position, **parameters}
        return Request(method="GET", path=path, answer=EventPage, parameters=asked)


def _failed(judged: Done[Any] | Failed[Any]) -> Failed[Any]:
    if isinstance(judged, Failed):
        return judged
    return Failed(UnavailableError("the stream was answered with something else"), again=True)


def _check(failed: Failed[Any], *, final: bool) -> None:
    """
    Return if it is worth trying on.

    Raises:
        TallystickError: The server says no, and it is the server that says it.
    """
    error: TallystickError = failed.error
    # What stands between may know no streams, and still let pages through.
    between = isinstance(error, AddressError) or (isinstance(error, ProblemError) and not error.code)
    if not failed.again and (final or not between):
        raise error
