"""How a payment is sent under one idempotency key, and what is said when nobody knows what became of it."""

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
    """Return what posts a transfer under the key that the command line gives, or a new one, and shows it."""
    return on_server(lambda client, options: _post(post, client, options))


def _post(post: Post, client: "Tallystick", options: argparse.Namespace) -> int:
    from tallystick_client import OutcomeUnknownError, ProblemError

    # An empty one is a slip, as of a variable that is not set, and refused as any other that is none.
    key = str(uuid.uuid4()) if options.key is None else options.key
    # What cannot be shown is not paid.
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
    """Have SIGTERM end what is done as Ctrl-C does: whoever is ended by it tells the key of its payment first."""
    if threading.current_thread() is not threading.main_thread():
        # Python hands signals to the first thread alone.
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unknown(reason: str, options: argparse.Namespace, key: str) -> int:
    """Say how to ask what became of a payment, and how to send the same again; return the exit code."""
    again = list(options.words)
    if options.key is None:
        # Behind the words that name the command: what follows `--` are no options.
        again.insert(1 if again[0] == "pay" else 2, f"--key={key}")
    ask = ["idempotency-keys", "get", key, *([] if options.url is None else ["--url", options.url])]
    complain(f"tallystick: the outcome is unknown: {reason}")
    # Neither is a secret, and both have to be copied as they are.
    complain(f"  ask what became of it:   tallystick {shlex.join(ask)}", may_be_secret=False)
    complain(f"  or send the same again:  tallystick {shlex.join(again)}", may_be_secret=False)
    return EXIT_UNKNOWN
