"""The AsyncAPI document describes all events."""

import json

from server.events.feed import TYPES
from server.events.webhooks.endpoints import TEST_TYPE
from server.http.asyncapi import document
from tests.support.service import Service


async def test_the_document(service: Service) -> None:
    """The document needs no key, is the same at every start, covers every type, and all its references resolve."""
    async with service.session.get(f"{service.url}/asyncapi.json") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        body = await answer.read()
    document.cache_clear()
    assert document() == body
    whole = json.loads(body)
    assert whole["asyncapi"] == "3.0.0"
    assert set(whole["components"]["messages"]) == {*TYPES, TEST_TYPE}
    for name, channel in whole["channels"].items():
        assert set(channel["messages"]) == {*TYPES, *([TEST_TYPE] if name == "webhook" else [])}
    for part in body.decode().split('"$ref": "#/')[1:]:
        found = whole
        for step in part.partition('"')[0].split("/"):
            found = found[step]


def test_messages_say_what_events_have() -> None:
    """Each message describes exactly the members that reading the event returns."""
    schemas = json.loads(document())["components"]["schemas"]
    assert set(schemas) >= {"Envelope", "TransferNow", "AccountBody", "HoldBody"}
    assert {"position", "data", "id", "type"} <= set(schemas["Envelope"]["required"])
    assert {"source_balance", "hold", "reversed"} <= set(schemas["TransferNow"]["properties"])
