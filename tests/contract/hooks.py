"""What Schemathesis has to know besides the document. It runs in its own environment."""

import os
import re
from typing import Any

import schemathesis

# The public id of the key used for all requests.
OWN_KEY = os.environ["CONTRACT_KEY_ID"]

# Existing accounts, so that some transfers move money.
ACCOUNTS = {"source": "customer:42", "destination": "merchant:7", "currency": "EUR"}
# The values that they replace. A value that the document forbids stays, because its request must be refused.
REPLACED = {
    "source": re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,63}"),
    "destination": re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,63}"),
    "currency": re.compile(r"[A-Z0-9]{3,8}"),
}
# Nothing listens at this address, which replaces others of a length that the document allows.
NOBODY = "http://127.0.0.1:1/"
URL = re.compile(r"http.{0,2044}", re.DOTALL)


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
    if _matches(body, "url", URL):
        body["url"] = NOBODY
    amount = body.get("amount")
    if all(_matches(body, *each) for each in REPLACED.items()) and isinstance(amount, int) and amount % 2:
        body.update(ACCOUNTS)
    return body


def _matches(body: dict[str, Any], name: str, form: re.Pattern[str]) -> bool:
    value = body.get(name)
    return isinstance(value, str) and form.fullmatch(value) is not None
