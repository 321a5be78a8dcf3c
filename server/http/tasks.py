"""When a request needs a task of its own."""

import types
from collections.abc import Generator


@types.coroutine
def needs_task() -> Generator[None, None, None]:
    """
    Let the rest of a request run in a task.

    A connection runs a request by hand, which works while it waits for nothing but futures. Timeouts of asyncio, and
    so clients of PostgreSQL and Redis, need a task.
    """
    yield
