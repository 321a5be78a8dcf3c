"""The messages between the supervisor and its children: one JSON object per line, over a pair of sockets."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import msgspec

from server.telemetry.metrics import Metric

# Longest message, in bytes; settings are far shorter. A line that never ends must not fill the memory.
MESSAGE_MAX_BYTES: Final = 256 * 1024
# Most bytes read in one call.
READ_BYTES: Final = 64 * 1024


class Orders(msgspec.Struct, tag="orders", frozen=True):
    """
    To a child, as the first message: the settings to work with.

    Args:
        values: Settings that differ from the defaults, including secrets.

        workers: The number of workers of the server, including the one that reads this.

        must_be_ready: Whether to send `Refused` instead of `Serving` when it is not ready.
    """

    values: dict[str, str | int | bool]
    workers: int
    must_be_ready: bool = False


class Retire(msgspec.Struct, tag="retire", frozen=True):
    """To a child: a successor has its place now and accepts from its socket. Finish running requests and end."""


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """To a child: end without a successor. A worker first answers the connections that are queued at its socket."""


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """To a child: answer with `Ready`."""


class Beat(msgspec.Struct, tag="beat", frozen=True):
    """To the supervisor, once a second: the event loop runs."""


class Value(NamedTuple):
    """
    A metric's value for some values of its labels.

    Args:
        numbers: One number, or for a histogram the counts of its buckets and then the sum of the observations. None at
            all means that the value is gone.
    """

    name: str
    labels: tuple[str, ...]
    numbers: tuple[float, ...]


class Counted(msgspec.Struct, tag="counted", frozen=True):
    """
    To the supervisor, once a second: the values that have changed since the last report.

    Args:
        values: Totals since the child started, not increments, so that a later message makes up for a lost one.

        metrics: Descriptions, by name, of metrics that this channel carries for the first time.
    """

    values: tuple[Value, ...] = ()
    metrics: dict[str, Metric] = msgspec.field(default_factory=dict)


class HotAccount(NamedTuple):
    """An account, and in how many transfers of the last few seconds it took part."""

    ledger_id: int
    account: str
    transfers: int


class BusyKey(NamedTuple):
    """An API key, how many of its requests asked for tokens in the last few seconds, and how many got none."""

    ledger_id: int
    key: str
    asked: int
    limited: int


class Hot(msgspec.Struct, tag="hot", frozen=True):
    """
    To the supervisor, every ten seconds: the busiest accounts and API keys since the last such message.

    Args:
        accounts: The accounts that took part in most transfers.

        keys: The API keys with most requests for tokens, and those that most often got none.
    """

    accounts: tuple[HotAccount, ...] = ()
    keys: tuple[BusyKey, ...] = ()


class Told(msgspec.Struct, tag="told", frozen=True):
    """
    To the admin process: a report of another process.

    Args:
        source: The number of that process; 0 stands for all that have ended.
    """

    source: int
    report: Counted | Hot


class Place(NamedTuple):
    """A place for a child; `pid` is 0 while no process runs there."""

    label: str
    vital: bool
    pid: int
    state: str
    restarts: int
    silent_seconds: float


class Status(msgspec.Struct, tag="status", frozen=True):
    """
    To the admin process, once a second: the state of the children. The reports sent before it take effect with it.

    Args:
        sources: The processes whose reports count; all others have ended.

        states: How many workers are in each state.

        background: The same for background processes; None if the server runs none.
    """

    sources: tuple[int, ...]
    places: tuple[Place, ...]
    states: dict[str, int]
    background: dict[str, int] | None = None


class Inquire(msgspec.Struct, tag="inquire", frozen=True):
    """From the admin process to the supervisor: answer with `Reported`."""


class Report(NamedTuple):
    """The state of a child. It is ready if the state is `serving` and there are no failures."""

    label: str
    vital: bool
    pid: int
    state: str
    failures: tuple[str, ...]


class Reported(msgspec.Struct, tag="reported", frozen=True):
    """To the admin process, in answer to `Inquire`."""

    stopping: bool
    children: tuple[Report, ...]


class Serving(msgspec.Struct, tag="serving", frozen=True):
    """To the supervisor: the child serves; `failures` says why it is not ready and is empty if it is."""

    failures: tuple[str, ...] = ()


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """To the supervisor, in answer to `Ask`: `failures` says why the child is not ready and is empty if it is."""

    failures: tuple[str, ...] = ()


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """To the supervisor: the child cannot work with these settings; `text` tells the operator why."""

    text: str


ToChild = Orders | Retire | Stop | Ask | Told | Status | Reported
ToSupervisor = Beat | Counted | Hot | Serving | Ready | Refused | Inquire

M = TypeVar("M")


def _ignore(*_: object) -> None:
    """Ignore messages and the end of the channel until `listen` is called."""


class Channel(Generic[M]):
    """
    One end of the pair of sockets.

    Args:
        end: The socket; the channel closes it.

        kind: The messages that the other end sends: the structs of M, as a union.
    """

    def __init__(self, end: socket.socket, kind: Any) -> None:
        self._end = end
        self._decoder = msgspec.json.Decoder(kind)
        self._buffer = bytearray()
        # The rest of a message of which the socket took only the beginning.
        self._unsent = b""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: Callable[[M], None] = _ignore
        self._at_end: Callable[[], None] = _ignore

    def send(self, message: "ToChild | ToSupervisor") -> bool:
        """Send a message without waiting; return False if the other end is gone or its buffer is full."""
        try:
            if self._unsent:
                self._unsent = self._unsent[self._end.send(self._unsent, socket.MSG_DONTWAIT) :]
            if self._unsent:
                return False
            line = msgspec.json.encode(message) + b"\n"
            # A message is far smaller than the buffer of the socket, so it is cut only if the buffer is nearly full.
            self._unsent = line[self._end.send(line, socket.MSG_DONTWAIT) :]
            return not self._unsent
        except OSError:
            return False

    def wait(self) -> M | None:
        """Wait for the next message and return it, or None if the other end is gone; only before a loop runs."""
        while b"\n" not in self._buffer:
            if not self._read():
                return None
        return self._next()

    def listen(self, handle: Callable[[M], None], at_end: Callable[[], None]) -> None:
        """Call *handle* with each message from now on, and *at_end* once when the other end is gone."""
        self._loop = asyncio.get_running_loop()
        self._end.setblocking(False)
        self._handle, self._at_end = handle, at_end
        self._loop.add_reader(self._end.fileno(), self.read_all)
        # Messages that arrived together with the one that `wait` returned.
        self._loop.call_soon(self._handle_all)

    def read_all(self) -> None:
        """Handle all messages that have arrived; only after `listen`."""
        while self._end.fileno() >= 0:
            try:
                is_open = self._read()
            except BlockingIOError:
                return
            self._handle_all()
            if not is_open:
                self.close()
                self._at_end()

    def close(self) -> None:
        """End the connection; a second call does nothing."""
        if self._loop is not None and self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
        self._end.close()

    def _handle_all(self) -> None:
        while b"\n" in self._buffer:
            # During a deploy the other end may be a newer release, with messages that this one does not know.
            with contextlib.suppress(msgspec.ValidationError):
                self._handle(self._next())

    def _read(self) -> bool:
        """Read what has arrived; return False at the end of the channel or if a message is too long."""
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
