"""What supervisor and worker say to each other: one JSON object a line, over a pair of sockets."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import msgspec

from server.telemetry.metrics import Metric

# Bytes of a message: settings are far shorter, and what never ends is not collected.
MESSAGE_MAX_BYTES: Final = 256 * 1024
# Bytes read at once.
READ_BYTES: Final = 64 * 1024


class Orders(msgspec.Struct, tag="orders", frozen=True):
    """
    To a worker, first of all: what to serve with.

    Args:
        values: Settings that differ from the defaults, secrets among them.

        workers: Workers that serve, this one included.

        must_be_ready: Whether to refuse instead of serving when there is a reason not to be ready.
    """

    values: dict[str, str | int]
    workers: int
    must_be_ready: bool = False


class Retire(msgspec.Struct, tag="retire", frozen=True):
    """To a worker: another one serves from its socket, so answer what is connected and end."""


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """To a worker: nobody serves from its socket any more, so take what is queued there, answer and end."""


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """To a worker: say whether you are ready."""


class Beat(msgspec.Struct, tag="beat", frozen=True):
    """To the supervisor, once a second: the loop runs."""


class Value(NamedTuple):
    """
    A metric's value for some values of its labels.

    Args:
        numbers: One, or the counts of a histogram's buckets and then the sum of what was counted.
    """

    name: str
    labels: tuple[str, ...]
    numbers: tuple[float, ...]


class Counted(msgspec.Struct, tag="counted", frozen=True):
    """
    To the supervisor, once a second: what the worker has counted since it started, as far as that has changed.

    Args:
        values: Totals, not what has come to them, so that a message that is lost is made good by a later one.

        metrics: What they are values of, by name, when it is named for the first time.
    """

    values: tuple[Value, ...] = ()
    metrics: dict[str, Metric] = msgspec.field(default_factory=dict)


class HotAccount(NamedTuple):
    """An account, and in how many transfers of the last few seconds it took part."""

    ledger_id: int
    account: str
    transfers: int


class Hot(msgspec.Struct, tag="hot", frozen=True):
    """To the supervisor, every ten seconds: the accounts that took part in most transfers since the last time."""

    accounts: tuple[HotAccount, ...]


class Serving(msgspec.Struct, tag="serving", frozen=True):
    """To the supervisor: requests are taken; the reasons not to be ready, if there are any."""

    failures: tuple[str, ...] = ()


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """To the supervisor, as it asked: the reasons not to be ready, none when ready."""

    failures: tuple[str, ...] = ()


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """To the supervisor: it cannot be served this way, and why, for a person."""

    text: str


ToWorker = Orders | Retire | Stop | Ask
ToSupervisor = Beat | Counted | Hot | Serving | Ready | Refused

M = TypeVar("M")


def _ignore(*_: object) -> None:
    """Stand in for who listens."""


class Channel(Generic[M]):
    """
    One end of the pair.

    Args:
        end: The socket; closed with the channel.

        kind: What the other end says: the structs of M, as a union.
    """

    def __init__(self, end: socket.socket, kind: Any) -> None:
        self._end = end
        self._decoder = msgspec.json.Decoder(kind)
        self._buffer = bytearray()
        # The end of a message of which the socket took only the beginning.
        self._unsent = b""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard: Callable[[M], None] = _ignore
        self._ended: Callable[[], None] = _ignore

    def send(self, message: "ToWorker | ToSupervisor") -> bool:
        """Say something without waiting; False when the other end is gone or has not listened for very long."""
        try:
            if self._unsent:
                self._unsent = self._unsent[self._end.send(self._unsent, socket.MSG_DONTWAIT) :]
            if self._unsent:
                return False
            line = msgspec.json.encode(message) + b"\n"
            # Far below what a socket holds, so it goes as a whole unless many others wait there.
            self._unsent = line[self._end.send(line, socket.MSG_DONTWAIT) :]
            return not self._unsent
        except OSError:
            return False

    def wait(self) -> M | None:
        """Return the next message, or None when the other end is gone; for a process without a loop yet."""
        while b"\n" not in self._buffer:
            if not self._read():
                return None
        return self._next()

    def listen(self, heard: Callable[[M], None], ended: Callable[[], None]) -> None:
        """Call *heard* with each message from now on, and *ended* once when the other end is gone."""
        self._loop = asyncio.get_running_loop()
        self._end.setblocking(False)
        self._heard, self._ended = heard, ended
        self._loop.add_reader(self._end.fileno(), self.catch_up)

    def catch_up(self) -> None:
        """Hear what has come by now, after `listen`."""
        while self._end.fileno() >= 0:
            try:
                is_open = self._read()
            except BlockingIOError:
                return
            while b"\n" in self._buffer:
                # During a deploy the other end may be of a release that says more than this one understands.
                with contextlib.suppress(msgspec.ValidationError):
                    self._heard(self._next())
            if not is_open:
                self.close()
                self._ended()

    def close(self) -> None:
        """End the connection; a second call does nothing."""
        if self._loop is not None and self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
        self._end.close()

    def _read(self) -> bool:
        """Collect what has come; False at the end."""
        try:
            data = self._end.recv(READ_BYTES)
        except BlockingIOError:
            raise
        except OSError:
            return False
        self._buffer += data
        return bool(data) and len(self._buffer) <= MESSAGE_MAX_BYTES

    def _next(self) -> M:
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return cast(M, self._decoder.decode(line))
