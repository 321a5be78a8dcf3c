"""
Kafka: an idempotent producer, and the account as key, so that an account's events stay in the order of their positions.

A producer that has failed is thrown away: its sequence numbers no longer match the broker's.

This module is imported only if a sink of this kind runs.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from server.events.sinks.options import KafkaOptions
from server.events.sinks.sink import (
    CLOSE_SECONDS,
    CONFIRM_SECONDS,
    CONTENT_TYPE,
    Message,
    RefusedError,
    connected,
    shown,
    within,
)

# Milliseconds that one request may take: shorter than `CONFIRM_SECONDS`, so that a lost one can be repeated.
REQUEST_MS: Final = 5_000
# Bytes in one batch of a partition: a fourth of what a broker takes by default.
BATCH_BYTES: Final = 256 * 1024


class KafkaSink:
    """
    A topic of Kafka.

    Args:
        options: Which topic, and how to reach it.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._password: str | None = None
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        """Connect, and get the producer's id from the cluster."""
        self._password = await connected(self._options, ("aiokafka",), self._open, (KafkaError,))

    async def _open(self, password: str | None, tls: ssl.SSLContext | None) -> None:
        options = self._options
        settings: dict[str, Any] = {}
        if options.sasl is not None:
            settings = {
                "sasl_mechanism": options.sasl,
                "sasl_plain_username": options.username,
                "sasl_plain_password": password,
            }
        self._producer = AIOKafkaProducer(
            bootstrap_servers=options.bootstrap.split(","),
            client_id="tallystick",
            security_protocol=("SASL_" if options.sasl else "") + ("SSL" if options.tls else "PLAINTEXT"),
            ssl_context=tls,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=REQUEST_MS,
            max_batch_size=BATCH_BYTES,
            **settings,
        )
        await self._producer.start()

    async def send(self, messages: Sequence[Message]) -> None:
        """Return when all in-sync replicas have the messages."""
        await within(CONFIRM_SECONDS, self._send(messages), "not confirmed", (KafkaError,), self._password)

    async def _send(self, messages: Sequence[Message]) -> None:
        sent: list[asyncio.Future[object]] = []
        try:
            for message in messages:
                sent.append(await self._begin(message))  # noqa: PERF401 -- those before one that fails are kept
            await asyncio.gather(*sent)
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            raise RefusedError(shown(f"larger than the topic takes: {error}", self._password)) from error
        finally:
            for future in sent:
                # asyncio would log an error that is never retrieved.
                if not future.cancel() and not future.cancelled():
                    future.exception()

    async def _begin(self, message: Message) -> "asyncio.Future[object]":
        """Queue a message behind those before it, and return a future that is done when it is confirmed."""
        assert self._producer is not None, "it is open"
        account = message.event.account
        headers = [("content-type", CONTENT_TYPE), *((f"ce_{k}", v) for k, v in message.attributes.items())]
        sent: asyncio.Future[object] = await self._producer.send(
            self._options.topic,
            message.body,
            # A refusal may name no account: it goes to any partition.
            key=account.encode() if account else None,
            timestamp_ms=int(message.event.at.timestamp() * 1000),
            headers=[(name, value.encode()) for name, value in headers],
        )
        return sent

    async def close(self) -> None:
        """Close the producer without sending the rest."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        # `stop` would wait for as long as the broker is away, and keep trying.
        producer._closed = True
        sending = producer._sender.sender_task
        if sending is not None:
            sending.cancel()
            await asyncio.wait([sending], timeout=CLOSE_SECONDS)
        await asyncio.wait([asyncio.ensure_future(producer.client.close())], timeout=CLOSE_SECONDS)
