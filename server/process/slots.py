"""The places of workers, and how long their supervisor waits for what."""

import socket
from typing import Final, NamedTuple

from server.process.children import Child


class Patience(NamedTuple):
    """How long the supervisor waits for what, in seconds."""

    # Until a worker serves. It takes half a second, and much longer on a machine that starts everything at once.
    start: float = 30.0
    # Without a sign of life, of which a worker gives one a second: its loop is stuck, or the process is stopped.
    silence: float = 10.0
    # Until a worker told to end has ended: the idle connections' time, the running requests', the postings' and the
    # pools', each of which is bounded by itself.
    end: float = 30.0
    # Before a worker that died is started again: hardly noticed the first time, and no load when it dies at each start.
    restart_first: float = 0.1
    restart_max: float = 10.0
    # A worker that served this long died of something new.
    stable: float = 30.0


PATIENCE: Final = Patience()


class Slot:
    """A place for a worker: its number, its socket, and who serves from it."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.current: Child | None = None
        # Ends in a row, or attempts at a start, without having served for long.
        self.failures = 0
