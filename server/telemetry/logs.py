"""Structured logs: one JSON object a line on standard error, off the hot path."""

import logging
import sys
from typing import Any

import orjson
import structlog

# Loggers of libraries that say at warning or above what a running service wants to hear. asyncpg's pool logs a
# traceback for every connection it cannot open, and aiohttp's server one for every malformed request.
_QUIET = {"asyncio": logging.WARNING, "asyncpg": logging.ERROR, "aiohttp": logging.CRITICAL}


def _serialize(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def configure_logs(level: str) -> None:
    """Send all log records of the process, ours and the libraries', through one formatter."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Locals stay out of tracebacks: they hold what callers sent.
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=_serialize),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
