"""The command line: `tallystick`."""

import logging
import sys
from collections.abc import Sequence

from server.cli.program import parser
from server.process.commands.exits import (
    EXIT_INTERRUPTED,
    EXIT_NO_READER,
    NoReaderError,
    OutputError,
    fail,
    open_descriptors,
)

__all__ = ["main", "parser"]

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    open_descriptors()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser(words).parse_args(words)
        if not all(map(_is_utf8, vars(options).values())):
            return fail("an argument is not UTF-8")
        options.words = words
        return int(options.run(options))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except NoReaderError:
        return EXIT_NO_READER
    except OutputError as error:
        return fail(f"standard output cannot be written: {error}")
    except Exception as error:
        return _explained(error)


def _is_utf8(value: object) -> bool:
    """
    Return whether an argument can be sent or stored: Python represents bytes that are not UTF-8 by characters that
    cannot. Names of files, which are paths, may be any bytes.
    """
    if isinstance(value, list | tuple):
        return all(map(_is_utf8, value))
    try:
        (value if isinstance(value, str) else "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _explained(error: Exception) -> int:
    from server.process.error_messages import explain, explain_fault

    log.debug("the command failed", exc_info=error)
    return fail(explain(error) or explain_fault(error))
