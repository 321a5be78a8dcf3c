"""What Schemathesis has to know besides the document. It runs in its own environment."""

import os
from typing import Any

import schemathesis

# The public id of the key used for all requests.
OWN_KEY = os.environ["CONTRACT_KEY_ID"]

# Existing accounts, so that some transfers move money.
ACCOUNTS = {"source": "customer:42", "destination": "merchant:7", "currency": "EUR"}
# Nothing listens at this address.
NOBODY = "http://127.0.0.1:1/"


@schemathesis.hook
def before_call(_context: Any, case: Any, _arguments: Any) -> None:
    """Keep requests from changing or revoking their own key: all later requests would be refused."""
    if case.path_parameters.get("id") == OWN_KEY:
        case.path_parameters["id"] = OWN_KEY[::-1]


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Use existing accounts in every other transfer, and a dead address in every webhook endpoint."""
    if not isinstance(body, dict):
        return body
    if str(body.get("url", "")).startswith("http"):
        body["url"] = NOBODY
    amount = body.get("amount")
    if {"source", "destination"} <= body.keys() and isinstance(amount, int) and amount % 2:
        body.update(ACCOUNTS)
    return body
