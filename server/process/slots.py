"""The places of workers."""

import socket

from server.process.children import Child, Report


class Slot:
    """A place for a worker: its number, its socket, and who serves from it."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.current: Child | None = None
        # Ends in a row, or attempts at a start, without having served for long.
        self.failures = 0

    async def report(self) -> Report:
        """Return what its worker says of itself; without one it waits for that to be started again."""
        if self.current is None:
            return Report(self.number, 0, "restarting", ())
        return await self.current.report()
