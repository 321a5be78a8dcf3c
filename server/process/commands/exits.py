"""The output and exit codes of commands."""

import errno
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

EXIT_FAULTS: Final = 1
EXIT_ERROR: Final = 2
EXIT_REFUSED: Final = 3
EXIT_UNKNOWN: Final = 4
EXIT_AWAY: Final = 5
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
# The reader of standard output has gone. A shell shows this code for a program that SIGPIPE has ended.
EXIT_NO_READER: Final = 128 + signal.SIGPIPE

# The exit codes in the help of the program.
EXIT_CODES: Final = {
    0: "done",
    EXIT_FAULTS: "audit or doctor found a fault, or a line of a file cannot be imported",
    EXIT_ERROR: "not carried out: wrong arguments, settings, file, address or key; or PostgreSQL or Redis is unusable",
    EXIT_REFUSED: "refused by the ledger, for example for too little money, or not found",
    EXIT_UNKNOWN: "the outcome of a payment is unknown: standard error says how to ask what became of it",
    EXIT_AWAY: "the server cannot be reached or is overloaded: nothing was done, try again later",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
    EXIT_NO_READER: "the reader of standard output has gone",
}

# Secrets that may be pasted in the wrong place: an API key or a part of one, a webhook's secret, a webhook key or a
# console token, and a password in an address.
_SECRETS: Final = (
    (re.compile(r"tsk_\w+"), "tsk_..."),
    (re.compile(r"whsec_[\w+/=-]+"), "whsec_..."),
    (re.compile(r"[0-9A-Fa-f]{32,}"), "..."),
    # A key that encrypts the secrets of webhooks, or a console token.
    (re.compile(r"[\w-]{43,}=?"), "..."),
    # A password may hold blanks.
    (re.compile(r"://.*@"), "://...@"),
    (re.compile(r"(pass\w*=)[^\s&]+", re.IGNORECASE), r"\1..."),
)


def shown_codes(*codes: int) -> str:
    """Return the meaning of these exit codes and of 0, or of all exit codes, for the help of a command."""
    named = (0, *codes) if codes else EXIT_CODES
    return "\n".join(("exit codes:", *(f"  {code:<3}  {EXIT_CODES[code]}" for code in named)))


# What to do if the token of a rotated key could not be shown.
UNSEEN_TOKEN: Final = "nobody has seen the new token: rotate the key again"  # noqa: S105 -- no token


class OutputError(Exception):
    """Standard output cannot be written; the message says why."""


class NoReaderError(OutputError):
    """The reader of standard output has gone."""


def masked(text: str) -> str:
    """Return *text* with possible secrets masked."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def open_descriptors() -> None:
    """Open standard input, output and error if they are closed, so that no connection gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The system assigns the lowest free number.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Escape characters that the locale cannot show.
            stream.reconfigure(errors="backslashreplace")


def check_output() -> None:
    """
    Check that standard output is open.

    Raises:
        OutputError: It was closed when this program started.
    """
    if sys.stdout is None:
        raise OutputError("it is closed")


def check_room() -> None:
    """
    Check that standard output can be written, before something is made that is shown only once.

    A disk may still prove to be full when the text is written.

    Raises:
        OutputError: It is closed, full, or without a reader.
    """
    check_output()
    try:
        number = sys.stdout.fileno()
    except io.UnsupportedOperation:
        # It is kept in memory.
        return
    with _output():
        # A full device refuses even this; a pipe takes it even without a reader.
        os.write(number, b"")
        poll = select.poll()
        poll.register(number, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@contextmanager
def shown_once(advice: str, undo: Callable[[], object] | None = None) -> Iterator[None]:
    """
    Show in the block what cannot be shown again.

    Args:
        advice: The end of the error message: what was undone, or what to do now.

        undo: Called if it cannot be shown.

    Raises:
        OutputError: Standard output cannot be written; the message ends with *advice*.
    """
    try:
        yield
    except OutputError as error:
        if undo is not None:
            undo()
        raise OutputError(f"{error}; {advice}") from error


@contextmanager
def _output() -> Iterator[None]:
    """Raise OutputError if standard output is closed or cannot be written to in the block."""
    check_output()
    try:
        yield
    except BrokenPipeError as error:
        _abandon(sys.stdout)
        raise NoReaderError(str(error.strerror)) from error
    except OSError as error:
        _abandon(sys.stdout)
        raise OutputError(error.strerror or type(error).__name__) from error


def say(text: str, *, end: str = "\n") -> None:
    """
    Print on standard output and flush it.

    Raises:
        OutputError: It cannot be written.
    """
    with _output():
        print(text, end=end, flush=True)


def say_bytes(text: bytes) -> None:
    """
    Print UTF-8 on standard output unchanged, whatever the locale, and flush it.

    Raises:
        OutputError: It cannot be written.
    """
    with _output():
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()


def complain(text: str, *, end: str = "\n", may_be_secret: bool = True) -> None:
    """Print on standard error, with secrets masked; if that fails, only the exit code shows the error."""
    if sys.stderr is None:
        return
    try:
        print(masked(text) if may_be_secret else text, end=end, file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def fail(text: str) -> int:
    """Print why a command cannot be carried out, and return its exit code."""
    complain(f"tallystick: {text}")
    return EXIT_ERROR


def _abandon(stream: TextIO) -> None:
    """Discard the rest of the stream's buffer, because Python would try to write it again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
