"""
RabbitMQ: persistent messages to a durable topic exchange, each confirmed by the broker.

Imported only where a sink of this kind runs.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

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

# Routing keys that are remembered to lead to a queue: those of ten thousand ledgers.
ROUTED_MAX: Final = 100_000


class RabbitSink:
    """
    An exchange.

    A message that leads to no queue comes back and is sent again until somebody is bound. So the first message of each
    routing key is confirmed before any other is sent: those behind it must not overtake it.

    Args:
        options: Which, and how it is reached.
    """

    def __init__(self, options: RabbitOptions) -> None:
        self._options = options
        self._password: str | None = None
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None
        self._routed: set[str] = set()

    async def open(self) -> None:
        """Connect, and make the exchange unless it is there."""
        libraries = ("aio_pika", "aiormq")
        self._password = await connected(self._options, libraries, self._open, CONNECTION_EXCEPTIONS)

    async def _open(self, password: str | None, tls: ssl.SSLContext | None) -> None:
        url = yarl.URL(self._options.url)
        if self._options.username is not None:
            url = url.with_user(self._options.username).with_password(password)
        # Known before it is there: one that could not be opened has to be closed too.
        self._connection = connection = aio_pika.Connection(
            url, ssl_context=tls, client_properties={"connection_name": "tallystick"}
        )
        try:
            await connection.connect()
        except InvalidFrameError as error:
            # The library does not tell what the broker said.
            raise AwayError("the broker refuses the connection: it may have no such virtual host") from error
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchange = await channel.declare_exchange(
            self._options.exchange, aio_pika.ExchangeType.TOPIC, durable=True
        )

    async def send(self, messages: Sequence[Message]) -> None:
        """Return when every queue that a message leads to has it on its disk."""
        if len(self._routed) > ROUTED_MAX:
            self._routed.clear()
        await within(CONFIRM_SECONDS, self._send(messages), "not confirmed", CONNECTION_EXCEPTIONS, self._password)

    async def _send(self, messages: Sequence[Message]) -> None:
        try:
            run: list[Message] = []
            for message in messages:
                if _routing_key(message) not in self._routed:
                    await self._publish(run)
                    await self._publish([message])
                    self._routed.add(_routing_key(message))
                    run = []
                else:
                    run.append(message)
            await self._publish(run)
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

    async def _publish(self, messages: Sequence[Message]) -> None:
        """Send messages one after another, and return when all are confirmed."""
        tasks = [asyncio.create_task(self._publish_one(message)) for message in messages]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            await stop(*tasks)
            raise

    async def _publish_one(self, message: Message) -> None:
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
        await self._exchange.publish(packed, _routing_key(message), mandatory=True)

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.wait([asyncio.ensure_future(connection.close())], timeout=CLOSE_SECONDS)


def _routing_key(message: Message) -> str:
    return f"{message.ledger}.{message.event.type}"
