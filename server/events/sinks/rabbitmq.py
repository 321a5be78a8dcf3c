"""
RabbitMQ: persistent messages to a durable topic exchange, each confirmed by the broker.

This module is imported only if a sink of this kind runs.
"""

import asyncio
import ssl
from collections.abc import Sequence

import aio_pika
import yarl
from aio_pika.abc import AbstractConnection, AbstractExchange
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
    DeliveryError,
    InvalidFrameError,
    PublishError,
)

from server.events.sinks.options import RabbitOptions
from server.events.sinks.sink import (
    CLOSE_SECONDS,
    CONFIRM_SECONDS,
    CONTENT_TYPE,
    AwayError,
    Message,
    RefusedError,
    connected,
    shown,
    within,
)
from server.store.background import stop


class RabbitSink:
    """
    An exchange of RabbitMQ.

    A message that reaches no queue, or a full one, comes back and is sent again. Queues may be bound, unbound and
    emptied at any moment. So a message is confirmed before the next one of its account is sent, which must not overtake
    it.

    Args:
        options: Which exchange, and how to reach it.
    """

    def __init__(self, options: RabbitOptions) -> None:
        self._options = options
        self._password: str | None = None
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None

    async def open(self) -> None:
        """Connect, and create the exchange if it does not exist."""
        libraries = ("aio_pika", "aiormq")
        self._password = await connected(self._options, libraries, self._open, CONNECTION_EXCEPTIONS)

    async def _open(self, password: str | None, tls: ssl.SSLContext | None) -> None:
        url = yarl.URL(self._options.url)
        if self._options.username is not None:
            url = url.with_user(self._options.username).with_password(password)
        # Stored before it is open: a connection that could not be opened must be closed, too.
        self._connection = connection = aio_pika.Connection(
            url, ssl_context=tls, client_properties={"connection_name": "tallystick"}
        )
        try:
            await connection.connect()
        except InvalidFrameError as error:
            # The library does not pass on what the broker said.
            raise AwayError("the broker refuses the connection: it may have no such virtual host") from error
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchange = await channel.declare_exchange(
            self._options.exchange, aio_pika.ExchangeType.TOPIC, durable=True
        )

    async def send(self, messages: Sequence[Message]) -> None:
        """Return when every queue that a message reaches has it on its disk."""
        tasks: list[asyncio.Task[None]] = []
        newest: dict[tuple[str, str], asyncio.Task[None]] = {}
        try:
            for message in messages:
                account = message.ledger, message.event.account
                if account in newest:
                    await newest[account]
                newest[account] = asyncio.create_task(self._confirm(message))
                tasks.append(newest[account])
            await asyncio.gather(*tasks)
        except BaseException:
            await stop(*tasks)
            raise

    async def _confirm(self, message: Message) -> None:
        # Each message has the whole time for itself: messages sent one after the other take longer the more there are.
        work = self._publish(message)
        await within(CONFIRM_SECONDS, work, "not confirmed", CONNECTION_EXCEPTIONS, self._password)

    async def _publish(self, message: Message) -> None:
        assert self._exchange is not None, "it is open"
        packed = aio_pika.Message(
            message.body,
            content_type=CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=message.id,
            timestamp=message.event.at,
            type=message.attributes["type"],
            app_id="tallystick",
        )
        try:
            await self._exchange.publish(packed, _routing_key(message), mandatory=True)
        except PublishError as error:
            raise AwayError(f"no queue is bound for the routing key {error.args[1]}") from error
        except DeliveryError as error:
            raise AwayError("a queue took no message: it may be full") from error
        except ChannelInvalidStateError as error:
            raise AwayError("the connection was lost") from error
        except ChannelPreconditionFailed as error:
            text = shown(str(error), self._password)
            if "larger than" in text:
                raise RefusedError(text) from error
            raise AwayError(text) from error

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.wait([asyncio.ensure_future(connection.close())], timeout=CLOSE_SECONDS)


def _routing_key(message: Message) -> str:
    return f"{message.ledger}.{message.event.type}"
