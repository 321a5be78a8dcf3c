"""How commands speak, and how they end."""

import os
import re
import signal
import sys
from typing import Final, TextIO

# Something was looked at and is not well; the command could not be carried out.
EXIT_FAULTS: Final = 1
EXIT_ERROR: Final = 2
# Nobody reads standard output any more: what a shell shows of a program that SIGPIPE has ended.
EXIT_NO_READER: Final = 128 + signal.SIGPIPE

# What may be a secret, pasted where it does not belong: a key or a piece of one, and a password in an address.
_SECRETS: Final = (
    (re.compile(r"tsk_\w+"), "tsk_..."),
    (re.compile(r"[0-9A-Fa-f]{32,}"), "..."),
    (re.compile(r"://\S*@"), "://...@"),
    (re.compile(r"(pass\w*=)[^\s&]+", re.IGNORECASE), r"\1..."),
)


class OutputError(Exception):
    """Standard output cannot be written; the message says why."""


class NoReaderError(OutputError):
    """The reader of standard output has gone."""


def masked(text: str) -> str:
    """Return *text* without what may be a secret."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def open_descriptors() -> None:
    """Have standard input, output and error open, so that no file or connection takes their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is the one that is given.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A locale that has no letter for what is named does not keep it from being named.
            stream.reconfigure(errors="backslashreplace")


def check_output() -> None:
    """
    Return if there is a standard output.

    Raises:
        OutputError: It was closed when this program was started.
    """
    if sys.stdout is None:
        raise OutputError("it is closed")


def say(text: str, *, end: str = "\n") -> None:
    """
    Print on standard output, at once.

    Raises:
        OutputError: It cannot be written.
    """
    check_output()
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError as error:
        _abandon(sys.stdout)
        raise NoReaderError(str(error.strerror)) from error
    except OSError as error:
        _abandon(sys.stdout)
        raise OutputError(error.strerror or type(error).__name__) from error


def complain(text: str, *, end: str = "\n") -> None:
    """Print on standard error without what may be a secret; where that cannot be, the exit code says it alone."""
    if sys.stderr is None:
        return
    try:
        print(masked(text), end=end, file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def fail(text: str) -> int:
    """Say why a command cannot be carried out, and return its exit code."""
    complain(f"tallystick: {text}")
    return EXIT_ERROR


def _abandon(stream: TextIO) -> None:
    """Have what is left in the stream go nowhere: Python would try to write it once more at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
