"""The interface of a sink: it is opened, takes messages until something goes wrong, and is closed."""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from server.events.feed import Event
from server.events.sinks.options import Options
from server.store.background import stop

T = TypeVar("T")

# Seconds in which a broker must be reached and have let us in: a few round trips, and the delay of a loaded broker.
OPEN_SECONDS: Final = 10.0
# Seconds in which it must confirm messages: it may have to wait for its disk and for replicas.
CONFIRM_SECONDS: Final = 10.0
# Seconds that closing a connection may take: a broker that does not answer is left.
CLOSE_SECONDS: Final = 5.0
# Characters of an error that are kept: brokers explain it in a sentence.
ERROR_MAX: Final = 500
# Bytes read of a password file.
PASSWORD_MAX_BYTES: Final = 4_096

# The content type of a message that is a whole CloudEvent.
CONTENT_TYPE: Final = "application/cloudevents+json; charset=UTF-8"

# What a library has last logged in the present task, and in tasks that it has started.
_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


class Message(NamedTuple):
    """An event to be sent."""

    # The name of its ledger.
    ledger: str
    event: Event
    # The event as a CloudEvent in JSON.
    body: bytes

    @property
    def id(self) -> str:
        """The message's id, as CloudEvents has it."""
        return f"{self.ledger}/{self.event.position}"

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the CloudEvent besides its data, for headers: readers need not parse the body to choose."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": f"/ledgers/{self.ledger}",
            "type": f"tallystick.{self.event.type}.v1",
            "subject": self.event.subject,
        }


class AwayError(Exception):
    """The broker cannot be reached, denies access, or does not confirm. This may pass; the message says why."""


class RefusedError(Exception):
    """The broker was reached, but will never take one of the messages; the message says why."""


class Sink(Protocol):
    """
    A client of a broker. Each kind is a class that is made of its options. After an error it is closed, and another one
    is sent the whole batch again.

    No message may be taken before earlier messages of the same account: readers may ignore positions below those they
    have seen.
    """

    async def open(self) -> None:
        """
        Connect.

        Raises:
            AwayError: The connection failed.
        """

    async def send(self, messages: Sequence[Message]) -> None:
        """
        Return when the broker has confirmed all messages, in their order.

        Raises:
            AwayError: Some messages may have been taken.
            RefusedError: The same; if there was only one message, it has not been taken.
        """

    async def close(self) -> None:
        """Close what is open, whatever state it is in."""


class _Listener(logging.Handler):
    """Keeps what a library logs instead of raising."""

    def emit(self, record: logging.LogRecord) -> None:
        heard = _heard.get()
        if heard is not None:
            heard[:] = [record.getMessage()]


async def connected(
    options: Options,
    libraries: Sequence[str],
    connect: Callable[[str | None, ssl.SSLContext | None], Coroutine[Any, Any, None]],
    errors: tuple[type[Exception], ...],
) -> str | None:
    """
    Connect with the password and the encryption that the options name, and return the password.

    Args:
        libraries: Libraries whose last log line explains an error.

        errors: Errors of the library that mean that the broker is away.

    Raises:
        AwayError: The connection failed.
    """
    for library in libraries:
        _listen_to(library)
    password = password_of(options)
    await within(OPEN_SECONDS, connect(password, tls_context(options)), "cannot connect", errors, password)
    return password


def _listen_to(library: str) -> None:
    """Keep what a library logs, to explain the errors of its sink: a failure is logged once, and no event is."""
    logger = logging.getLogger(library)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    if not any(isinstance(handler, _Listener) for handler in logger.handlers):
        logger.addHandler(_Listener())


async def within(
    seconds: float,
    work: Coroutine[Any, Any, T],
    doing: str,
    errors: tuple[type[Exception], ...],
    password: str | None,
) -> T:
    """
    Return the result of the work. It is cancelled when it takes too long, and abandoned if it then still goes on.

    Args:
        doing: Name of the work, for the message of an error.

        errors: Errors of the library that mean that the broker is away.

        password: Is left out of messages.

    Raises:
        AwayError: It took too long, or raised one of the errors.
    """
    away: tuple[type[Exception], ...] = (OSError, *errors)
    heard: list[str] = []
    token = _heard.set(heard)
    # A library may ignore its cancellation, so the work has a task of its own.
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError("no answer in time")
        return task.result()
    except away as error:
        raise AwayError(
            shown(f"{doing}: {'; '.join([str(error) or type(error).__name__, *heard])}", password)
        ) from error
    finally:
        _heard.reset(token)
        await stop(task)


def shown(text: str, password: str | None) -> str:
    """Return an error's text as it may be stored: one line, without the password."""
    line = " ".join(text.replace("\0", "").split())
    return (line.replace(password, "...") if password else line)[:ERROR_MAX]


def password_of(options: Options) -> str | None:
    """
    Return the password that the options name.

    Raises:
        AwayError: The password cannot be read, or is empty.
    """
    if options.password_env is not None:
        found = os.environ.get(options.password_env)
        if not found:
            raise AwayError(f"the background process has no environment variable {options.password_env}")
        return found
    if options.password_file is None:
        return None
    try:
        with Path(options.password_file).open(encoding="utf-8") as file:
            found = file.read(PASSWORD_MAX_BYTES).strip()
    except (OSError, ValueError) as error:
        raise AwayError(f"{options.password_file} cannot be read: {type(error).__name__}") from None
    if not found:
        raise AwayError(f"{options.password_file} is empty")
    return found


def tls_context(options: Options) -> ssl.SSLContext | None:
    """
    Return how the connection is encrypted; None if it is not.

    Raises:
        AwayError: A file cannot be used.
    """
    if not options.encrypted:
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.cert_file is not None:
            # With an empty password, so that none is asked for on a terminal.
            context.load_cert_chain(options.cert_file, options.key_file, password="")
    except (OSError, ValueError) as error:
        raise AwayError(f"a certificate cannot be used: {error}") from None
    return context
