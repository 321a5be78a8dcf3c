"""The webhooks of the OpenAPI document: the requests that an endpoint is sent."""

from typing import Any, Final

from server.events.feed import Envelope
from server.http.asyncapi import SUMMARIES
from server.http.openapi import schemas
from server.http.render import AccountBody, TransferNow

_FIELDS: Final = {
    "webhook-id": ("The `id` of the event, the same in every attempt.", "main/17"),
    "webhook-timestamp": ("Time of this attempt, in seconds since 1970.", "1767225600"),
    "webhook-signature": ("Signatures in the form of Standard Webhooks, one for each secret.", "v1,Z2l2ZW4="),
}
_ANSWERS: Final = {
    "2XX": "The event was delivered.",
    "410": "The endpoint is gone. It is disabled, and gets no more events.",
    "default": "The event is sent again later, up to ten times.",
}


def webhook(name: str) -> dict[str, Any]:
    """Return the request that an endpoint is sent for an event of this type."""
    data = AccountBody if name.startswith("account.") else TransferNow
    event = {
        "allOf": [
            schemas.schema(Envelope),
            {
                "type": "object",
                "properties": {"type": {"const": f"tallystick.{name}.v1"}, "data": schemas.schema(data)},
            },
        ]
    }
    return {
        "post": {
            "operationId": f"on_{name.replace('.', '_')}",
            "summary": SUMMARIES[name],
            "tags": ["Events"],
            "security": [],
            "parameters": [
                {
                    "name": field,
                    "in": "header",
                    "required": True,
                    "description": description,
                    "schema": {"type": "string"},
                    "example": example,
                }
                for field, (description, example) in _FIELDS.items()
            ],
            "requestBody": {"required": True, "content": {"application/cloudevents+json": {"schema": event}}},
            "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
        }
    }
