"""What Schemathesis is to know of the service besides its document; it runs in an environment of its own."""

import os
from typing import Any

import schemathesis

# The public id of the key that all requests are made with.
OWN_KEY = os.environ["CONTRACT_KEY_ID"]

# Accounts that are there, so that money is moved at times.
ACCOUNTS = {"source": "customer:42", "destination": "merchant:7", "currency": "EUR"}
# Where nobody listens.
NOBODY = "http://127.0.0.1:1/"


@schemathesis.hook
def before_call(_context: Any, case: Any, _arguments: Any) -> None:
    """Have no request change or revoke the key that it is made with: nothing would be answered any more."""
    if case.path_parameters.get("id") == OWN_KEY:
        case.path_parameters["id"] = OWN_KEY[::-1]


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Let every other transfer be one between accounts that are there, and every webhook endpoint be nobody's."""
    if not isinstance(body, dict):
        return body
    if str(body.get("url", "")).startswith("http"):
        body["url"] = NOBODY
    amount = body.get("amount")
    if {"source", "destination"} <= body.keys() and isinstance(amount, int) and amount % 2:
        body.update(ACCOUNTS)
    return body
