"""What a run needs to be there before it: accounts with money, opened and filled over HTTP like anybody's."""

from pathlib import Path

from loadtests.client import Client, UnexpectedAnswer
from loadtests.history.recorder import Recorder
from loadtests.kit.limiter import limit_of
from loadtests.kit.plan import CURRENCY, OPENING_BALANCE, Limit, Plan
from loadtests.kit.traffic import body_of, transfer

# Accounts or transfers of one request: well below the contract's 1,000.
ITEMS_MAX = 500
_BULK = "/v1/transfers/bulk"


async def ask_limit(client: Client) -> Limit | None:
    """
    Return the limit of a key that has been idle; None where the server tells none.

    Raises:
        ClientError: The server cannot be reached, or does not take the key.
    """
    answer = await client.ask("GET", "/v1/accounts?limit=1")
    if answer.status != 200:
        raise UnexpectedAnswer("the first request with this key was", answer.status, answer.problem)
    return limit_of(answer.headers)


async def prepare(client: Client, plan: Plan, limit: Limit | None) -> None:
    """
    Open the accounts of a run and fill them; what moves money is in the history.

    Raises:
        ClientError: An account could not be opened or filled.
    """
    # An item costs a token, and more of them at once than the bucket holds are never let through.
    size = ITEMS_MAX if limit is None else max(1, min(ITEMS_MAX, limit.burst))
    names = [plan.account(number) for number in range(plan.accounts)]
    await client.open_accounts([plan.world], CURRENCY)
    await client.open_accounts(names, CURRENCY, floor=0, size=size)
    with Recorder(Path(plan.folder) / "history-prepare.jsonl") as recorder:
        for start in range(0, len(names), size):
            await _fill(client, plan, recorder, names[start : start + size])


async def _fill(client: Client, plan: Plan, recorder: Recorder, names: list[str]) -> None:
    items = []
    for name in names:
        key = f"{plan.run}-open-{name.removeprefix(plan.prefix)}"
        items.append((key, transfer(plan.world, name, OPENING_BALANCE, key)))
    noted = [(key, body_of(fields)) for key, fields in items]
    numbers = recorder.invoke_bulk(noted, process="prepare", path=_BULK, atomic=False)
    body = {"transfers": [{"key": key, **fields} for key, fields in items]}
    answer = await client.call("POST", _BULK, body, items=names)
    recorder.answered_bulk(numbers, answer.status, answer.body.decode())
