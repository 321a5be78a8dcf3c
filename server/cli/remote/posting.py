"""Sends a payment under one idempotency key, and says what to do if its outcome is unknown."""

import argparse
import shlex
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.cli.remote.arguments import row
from server.cli.remote.call import complain_of, on_server
from server.cli.remote.columns import transfer_columns
from server.cli.words import Run
from server.process.commands.exits import EXIT_UNKNOWN, OutputError, check_output, complain
from server.process.commands.tables import Column, say_record

if TYPE_CHECKING:
    from tallystick_client import Posted, Tallystick

Post = Callable[["Tallystick", argparse.Namespace, str], "Posted"]


def posted(post: Post) -> Run:
    """Return a function that posts a transfer under the key from the command line or a new key, and shows it."""
    return on_server(lambda client, options: _post(post, client, options))


def _post(post: Post, client: "Tallystick", options: argparse.Namespace) -> int:
    from tallystick_client import OutcomeUnknownError, ProblemError

    # An empty key is a mistake, such as a variable that is not set. It is sent, so that the server refuses it.
    key = str(uuid.uuid4()) if options.key is None else options.key
    # Pay nothing whose outcome could not be shown.
    check_output()
    try:
        with _ended_as_by_ctrl_c():
            transfer = post(client, options, key)
    except OutcomeUnknownError as error:
        return _unknown(str(error), options, key)
    except ProblemError as error:
        if error.outcome == "unknown":
            complain_of(error)
            return _unknown("the server does not know what became of it", options, key)
        return complain_of(error)
    except KeyboardInterrupt:
        return _unknown("interrupted before the answer came", options, key)
    found = row(transfer)
    columns = [*transfer_columns(found), Column("idempotency_key", show=lambda _: key), Column("replayed")]
    try:
        say_record(columns, {**found, "idempotency_key": key}, as_json=options.json)
    except OutputError:
        complain(f"tallystick: {transfer.id} is posted, under the idempotency key {key}", may_be_secret=False)
        raise
    return 0


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM interrupt the block like Ctrl-C, so that the command prints its idempotency key before it ends."""
    if threading.current_thread() is not threading.main_thread():
        # Python handles signals only in the main thread.
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unknown(reason: str, options: argparse.Namespace, key: str) -> int:
    """Print how to ask for the outcome of a payment and how to send it again; return the exit code."""
    again = list(options.words)
    if options.key is None:
        # Insert it after the words that name the command: after `--` it would not be an option.
        again.insert(1 if again[0] == "pay" else 2, f"--key={key}")
    ask = ["idempotency-keys", "get", key, *([] if options.url is None else ["--url", options.url])]
    complain(f"tallystick: the outcome is unknown: {reason}")
    # Neither line contains a secret, and both have to be copied unchanged.
    complain(f"  ask what became of it:   tallystick {shlex.join(ask)}", may_be_secret=False)
    complain(f"  or send the same again:  tallystick {shlex.join(again)}", may_be_secret=False)
    return EXIT_UNKNOWN
