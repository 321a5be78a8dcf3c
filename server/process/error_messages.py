"""Turns errors into sentences for operators."""

import traceback
from pathlib import Path

from server.process.embedded.errors import EmbeddedError
from server.settings import SettingsError
from server.store.errors import AddressError, DatabaseError, RowLockedError, StoreError, StoreUnavailableError

UNREACHABLE = "Postgres cannot be reached ({}): check TALLYSTICK_DATABASE_URL, and that the server runs"


class NotReadyError(Exception):
    """A child process had to be ready and is not; the message says why."""


def explain(error: BaseException) -> str | None:
    """Return what an error means to an operator, or None if it is a fault of the program."""
    match error:
        case RowLockedError():
            return f"{error}: try again when that has ended"
        case StoreUnavailableError():
            return UNREACHABLE.format(error)
        case SettingsError() | EmbeddedError() | StoreError() | NotReadyError():
            return str(error)
        case OSError() if error.filename:
            return f"{error.strerror}: {error.filename}"
        case OSError():
            return f"the system refuses: {error.strerror or str(error) or type(error).__name__}"
        case AddressError():
            return error.explained()
        case DatabaseError():
            return f"Postgres refuses: {error.text}"
        case _:
            return None


def explain_fault(error: BaseException) -> str:
    """Return the type and place of a fault of the program, without its message, which may quote values."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    fault = f"{type(error).__name__}{place}"
    return f"a bug in this program ({fault}): report it with the log that TALLYSTICK_LOG_LEVEL=debug gives"
