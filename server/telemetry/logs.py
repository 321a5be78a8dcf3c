"""Structured logs: one JSON object a line on standard error, off the hot path."""

import logging
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import orjson
import structlog

# The least level of loggers of libraries. asyncpg's pool logs a traceback for every connection that it cannot open,
# aiohttp's server one for every malformed request, and OpenTelemetry one for every batch; our own lines say it once.
_QUIET = {
    "asyncio": logging.WARNING,
    "asyncpg": logging.ERROR,
    "aiohttp": logging.CRITICAL,
    "opentelemetry": logging.CRITICAL,
    "urllib3": logging.CRITICAL,
}


def _serialize(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

# Exceptions shown of a chain of causes.
CAUSES_MAX = 8


def _first_line(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Keep the first line of asyncio's messages: the lines below it show objects and their contents."""
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _with_fields(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Put the fields of a record beside its text."""
    record = event.get("_record")
    if record is not None:
        event.update(getattr(record, "fields", {}))
    return event


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


def _format_exception(exc_info: _ExcInfo) -> str:
    return "".join(_traceback(exc_info[1]))


def configure_logs(level: str, **fields: object) -> None:
    """
    Send all log records of the process, ours and the libraries', through one formatter.

    Args:
        fields: Further fields of every line.
    """

    def add_fields(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event.update(fields)
        return event

    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.stdlib.PositionalArgumentsFormatter(),
        add_fields,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                _with_fields,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _first_line,
                # Locals and messages stay out of tracebacks: they hold what callers sent.
                structlog.processors.ExceptionRenderer(_format_exception),
                structlog.processors.JSONRenderer(serializer=_serialize),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
