"""What a person is told when something cannot be done."""

import asyncpg

from server.process.embedded import EmbeddedError
from server.settings import SettingsError
from server.store.errors import StoreError, StoreUnavailableError

UNREACHABLE = "Postgres cannot be reached ({}): check TALLYSTICK_DATABASE_URL, and that the server runs"


class NotReadyError(Exception):
    """A worker that had to be ready is not; the message says why."""


def explain(error: BaseException) -> str | None:
    """Return what an error means for whoever runs the program, or None when it is a fault of the program."""
    match error:
        case StoreUnavailableError():
            return UNREACHABLE.format(error)
        case SettingsError() | EmbeddedError() | StoreError() | NotReadyError():
            return str(error)
        case OSError() if error.filename:
            return f"{error.strerror}: {error.filename}"
        case OSError():
            # No file is concerned: a connection is.
            return UNREACHABLE.format(error)
        case asyncpg.InterfaceError():
            return f"the address of Postgres is refused: {error}"
        case asyncpg.PostgresError():
            return f"Postgres refuses: {error}"
        case _:
            return None
