"""Makes the AsyncAPI 3 document from the types in the code: the types of events, and the ways they are sent."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import msgspec

from server.events.feed import TYPES, Envelope
from server.events.webhooks.endpoints import TEST_TYPE
from server.http.render import AccountBody, TransferNow
from server.telemetry.version import VERSION

# The meaning of each type of event.
SUMMARIES: Final = {
    "transfer.posted": "Money moved from the source to the destination.",
    "transfer.refused": "A transfer, hold, capture, void or reversal was refused for ever by the state of the ledger.",
    "hold.created": "An amount was reserved on the source for the destination.",
    "hold.captured": "A hold, or a part of it, was captured; `parent` is the hold.",
    "hold.voided": "What remained of a hold was released; `parent` is the hold.",
    "hold.expired": "A hold expired, and what remained of it was released; `parent` is the hold.",
    "transfer.reversed": "A transfer or capture, or a part of it, was moved back; `parent` is what was reversed.",
    "account.created": "An account was opened.",
    "account.updated": "Limits or metadata of an account were changed, or it was opened again.",
    "account.closed": "An account was closed: no more money moves to or from it.",
}
TEST_SUMMARY: Final = "A test of the endpoint, sent on request. It is not in the feed, so its position is 0."
_CONTENT_TYPE: Final = "application/cloudevents+json"
_REFERENCE: Final = "#/components/schemas/{name}"


@cache
def document() -> bytes:
    """Return the document, always the same bytes."""
    # Not made at import: many servers are never asked for it.
    types = (Envelope, TransferNow, AccountBody)
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    names = {name: {"$ref": f"#/components/messages/{name}"} for name in TYPES}
    channels: dict[str, dict[str, Any]] = {
        "feed": {
            "address": "/v1/events/stream",
            "title": "The feed of a ledger",
            "description": "Server-sent events, resumed by Last-Event-ID. `GET /v1/events` has them in pages.",
            "messages": names,
        },
        "webhook": {
            "address": None,
            "title": "A webhook endpoint",
            "description": "A POST to the URL of the endpoint, signed as in Standard Webhooks.",
            "messages": {**names, TEST_TYPE: {"$ref": f"#/components/messages/{TEST_TYPE}"}},
        },
        "kafka": {
            "address": "{topic}",
            "title": "A topic of Kafka",
            "description": (
                "The key of a message is the account that the event is about; for a transfer, its source. A refusal "
                "that names no account has no key."
            ),
            "parameters": {"topic": {"description": "The topic that was given to `tallystick sinks create kafka`."}},
            "messages": names,
        },
        "rabbitmq": {
            "address": "{ledger}.{type}",
            "title": "A topic exchange of RabbitMQ",
            "description": "The address is the routing key.",
            "parameters": {
                "ledger": {"description": "The name of the ledger."},
                "type": {"description": "The type of the event.", "enum": list(TYPES)},
            },
            "bindings": {
                "amqp": {"is": "routingKey", "exchange": {"type": "topic", "durable": True}, "bindingVersion": "0.3.0"}
            },
            "messages": names,
        },
    }
    messages = {name: _message(name, SUMMARIES[name], described_event(name, _schema)) for name in TYPES}
    messages[TEST_TYPE] = _message(TEST_TYPE, TEST_SUMMARY, described_test(schemas[Envelope.__name__]))
    whole = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tallystick: events",
            "version": VERSION,
            "description": (
                "What happened in a ledger, in the order of commits, with positions 1, 2, 3, ... without a gap. Each "
                "channel delivers every event at least once; `id` is the same in every delivery."
            ),
        },
        "defaultContentType": _CONTENT_TYPE,
        "channels": channels,
        "operations": {
            name: {"action": "send", "channel": {"$ref": f"#/channels/{name}"}, "summary": channel["title"]}
            for name, channel in channels.items()
        },
        "components": {"messages": messages, "schemas": schemas},
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2)


def described_event(name: str, schema: Callable[[type], dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of an event of this type; *schema* returns that of one of our types."""
    data = AccountBody if name.startswith("account.") else TransferNow
    own = {"type": {"const": f"tallystick.{name}.v1"}, "data": schema(data)}
    return {"allOf": [schema(Envelope), {"type": "object", "properties": own}]}


def described_test(envelope: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the test of an endpoint: an envelope of its own type, without data."""
    own = {
        "id": {"type": "string", "description": "No event has this id.", "examples": ["main/test-17"]},
        "type": {"const": f"tallystick.{TEST_TYPE}.v1"},
        "subject": {"type": "string", "description": "The id of the endpoint."},
        "position": {"const": 0},
        "data": {"type": "object", "maxProperties": 0},
    }
    return {**envelope, "properties": {**envelope["properties"], **own}}


def _message(name: str, summary: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"tallystick.{name}.v1",
        "title": name,
        "summary": summary,
        "contentType": _CONTENT_TYPE,
        "payload": payload,
    }


def _schema(kind: type) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
