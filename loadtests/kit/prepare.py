"""What a run needs to be there before it: accounts with money, opened and filled over HTTP like anybody's."""

import json
from pathlib import Path
from typing import Any

from loadtests.history.api import Api, ApiError, Reply
from loadtests.history.recorder import Recorder
from loadtests.kit.limiter import limit_of
from loadtests.kit.plan import CURRENCY, OPENING_BALANCE, Limit, Plan
from loadtests.kit.traffic import body_of, transfer

# Accounts or transfers of one request: well below the contract's 1,000.
ITEMS_MAX = 500
_BULK = "/v1/transfers/bulk"


def ask_limit(api: Api) -> Limit | None:
    """
    Return the limit of a key that has been idle; None where the server tells none.

    Raises:
        ApiError: The server cannot be reached, or does not take the key.
    """
    reply = api.once("GET", "/v1/accounts?limit=1")
    if reply.status != 200:
        raise ApiError(_words("the server does not let this key in", reply))
    return limit_of(reply)


def prepare(api: Api, plan: Plan, limit: Limit | None) -> None:
    """
    Open the accounts of a run and fill them; what moves money is in the history.

    Raises:
        ApiError: An account could not be opened or filled.
    """
    # An item costs a token, and more of them at once than the bucket holds are never let through.
    size = ITEMS_MAX if limit is None else max(1, min(ITEMS_MAX, limit.burst))
    names = [plan.account(number) for number in range(plan.accounts)]
    asked: list[dict[str, Any]] = [{"id": plan.world, "currency": CURRENCY, "floor": None}]
    asked += [{"id": name, "currency": CURRENCY, "floor": 0} for name in names]
    for start in range(0, len(asked), size):
        _results(api, "/v1/accounts/bulk", {"accounts": asked[start : start + size]})
    with Recorder(Path(plan.folder) / "history-prepare.jsonl") as recorder:
        for start in range(0, len(names), size):
            _fill(api, plan, recorder, names[start : start + size])


def _fill(api: Api, plan: Plan, recorder: Recorder, names: list[str]) -> None:
    items = []
    for name in names:
        key = f"{plan.run}-open-{name.removeprefix(plan.prefix)}"
        items.append({"key": key, **transfer(plan.world, name, OPENING_BALANCE, key)})
    numbers = [
        recorder.invoke("transfer", process="prepare", path=_BULK, key=str(item["key"]), request=body_of(item))
        for item in items
    ]
    for number, result in zip(numbers, _results(api, _BULK, {"transfers": items}), strict=True):
        recorder.answered(number, result["status"], body_of(result["transfer"]), replayed=result["replayed"])


def _results(api: Api, path: str, body: object) -> list[dict[str, Any]]:
    reply = api.call("POST", path, body)
    if reply.status != 200:
        raise ApiError(_words("accounts for the run cannot be made", reply))
    results: list[dict[str, Any]] = reply.json["results"]
    wrong = [result for result in results if result["status"] not in (200, 201)]
    if wrong:
        raise ApiError(f"accounts for the run cannot be made: {json.dumps(wrong[0])}")
    return results


def _words(what: str, reply: Reply) -> str:
    return f"{what}: {reply.status} {reply.body[:500].decode(errors='replace')}"
