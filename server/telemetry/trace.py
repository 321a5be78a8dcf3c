"""Traces: reads the caller's `traceparent` (W3C Trace Context), and opens the sender of our own spans."""

import re
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from server.settings import SettingsError

if TYPE_CHECKING:
    from server.telemetry.otel import Traces

# Version, trace id, parent id, flags; a later version may have more fields after them.
_FORM: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})-"
    r"(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED: Final = 0x01


class Parent(NamedTuple):
    """A caller's span: its ids in hexadecimal, and whether the trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool


def read_traceparent(text: str) -> Parent | None:
    """Return the contents of a `traceparent` field; None if it is empty or malformed."""
    match = _FORM.fullmatch(text)
    if match is None or (match["version"] == "00" and match["more"]):
        return None
    return Parent(match["trace"], match["span"], bool(int(match["flags"], 16) & _SAMPLED))


class Part(NamedTuple):
    """A part of a request: its name, and when it began and ended, on the clock of `time.monotonic`, in seconds."""

    name: str
    began: float
    ended: float


def open_traces(endpoint: str | None, every: int) -> "Traces | None":
    """
    Return the sender of spans; None if no collector is configured.

    Raises:
        SettingsError: A collector is configured, but the packages are missing.
    """
    check_collector(endpoint)
    if endpoint is None:
        return None
    from server.telemetry.otel import Traces  # noqa: PLC0415

    return Traces(endpoint, every)


def check_collector(endpoint: str | None) -> None:
    """
    Check that the packages are installed if a collector is configured.

    Raises:
        SettingsError: They are missing.
    """
    if endpoint is None:
        return
    try:
        # Imported only here: the packages are an extra.
        import_module("server.telemetry.otel")
    except ModuleNotFoundError as error:
        raise SettingsError("otel_endpoint needs further packages: pip install 'tallystick[otel]'") from error
