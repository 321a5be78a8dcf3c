"""Structured logs: one JSON object a line on standard error, off the hot path."""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import orjson

# The lowest level at which libraries may log. asyncpg's pool logs a traceback for every connection that it cannot open,
# aiohttp's server one for every malformed request, and OpenTelemetry one for every batch; our own lines say it once.
_QUIET = {
    "asyncio": logging.WARNING,
    "asyncpg": logging.ERROR,
    "aiohttp": logging.CRITICAL,
    "opentelemetry": logging.CRITICAL,
    "urllib3": logging.CRITICAL,
}


# Maximum number of exceptions shown of a chain of causes.
CAUSES_MAX = 8


class _Lines(logging.Formatter):
    """
    Formats a record as a JSON object: its text is the event, and its fields stand beside it.

    Args:
        fields: Further fields of every line.
    """

    def __init__(self, fields: Mapping[str, object]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event = record.getMessage()
        if record.name == "asyncio":
            # The other lines show objects and their contents.
            event = event.partition("\n")[0]
        line = {
            "event": event,
            "level": record.levelname.lower(),
            "logger": record.name,
            "at": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            **self._fields,
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            # Locals and messages stay out of tracebacks: they hold what callers sent.
            line["exception"] = "".join(_traceback(record.exc_info[1]))
        return orjson.dumps(line, default=str).decode()


def _named(error: BaseException) -> str:
    """
    Return the name of an exception and what may be shown of its message.

    The messages of Postgres, of its driver and of Python's own conversions repeat the values they were
    given: rows, keys, whatever a caller sent. Only our own messages, and those of the operating system, do not.
    """
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if kind.__module__.startswith("server."):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    known = [str(value) for field in ("sqlstate", "constraint_name") if (value := getattr(error, field, None))]
    return f"{name} ({', '.join(known)})" if known else name


def _traceback(error: BaseException, left: int = CAUSES_MAX) -> Iterator[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and left > 0:
        yield from _traceback(cause, left - 1)
        yield "\n"
    yield from traceback.format_tb(error.__traceback__)
    yield _named(error) + "\n"


def configure_logs(level: str, **fields: object) -> None:
    """
    Send all log records of the process, ours and the libraries', through one formatter.

    Args:
        fields: Further fields of every line.
    """

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(fields))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
