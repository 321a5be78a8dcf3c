"""The webhooks of the OpenAPI document: the requests that an endpoint is sent."""

from typing import Any, Final

from server.events.feed import TYPES
from server.events.webhooks.endpoints import TEST_TYPE
from server.http.asyncapi import SUMMARIES, TEST_SUMMARY, described_event, described_test
from server.http.openapi import schemas

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


def webhooks() -> dict[str, Any]:
    """Return the requests that an endpoint is sent, by type."""
    test = described_test(schemas.components()["Event"])
    return {name: _request(name, SUMMARIES[name], described_event(name, schemas.schema)) for name in TYPES} | {
        TEST_TYPE: _request(TEST_TYPE, TEST_SUMMARY, test)
    }


def _request(name: str, summary: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "post": {
            "operationId": f"on_{name.replace('.', '_')}",
            "summary": summary,
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
            "requestBody": {"required": True, "content": {"application/cloudevents+json": {"schema": body}}},
            "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
        }
    }
