"""Pays with a client that openapi-python-client has made of the document: what a caller writes, and nothing more."""

import json
import os
import sys
from typing import NamedTuple

import httpx
from tallystick_api import AuthenticatedClient
from tallystick_api.api.accounts import create_account, get_account
from tallystick_api.api.transfers import create_transfer
from tallystick_api.models.account import Account
from tallystick_api.models.account_create import AccountCreate
from tallystick_api.models.create_transfer_conflict_problem import CreateTransferConflictProblem
from tallystick_api.models.problem_retry import ProblemRetry
from tallystick_api.models.transfer import Transfer
from tallystick_api.models.transfer_create import TransferCreate

# Times that a transfer is sent.
ATTEMPTS_MAX = 5

client = AuthenticatedClient(base_url=os.environ["TALLYSTICK_URL"], token=os.environ["TALLYSTICK_API_KEY"])


class Paid(NamedTuple):
    """What became of a transfer, how many answers were lost, and whether the last one was a replay."""

    answer: Transfer | CreateTransferConflictProblem
    lost: int
    replayed: bool


def pay(order: TransferCreate, key: str) -> Paid:
    """Send a transfer under one key until its answer is known."""
    lost = 0
    for _ in range(ATTEMPTS_MAX):
        try:
            answer = create_transfer.sync_detailed(client=client, body=order, idempotency_key=key)
        except httpx.TransportError:
            lost += 1
            continue
        parsed = answer.parsed
        if isinstance(parsed, Transfer | CreateTransferConflictProblem):
            return Paid(parsed, lost, answer.headers.get("Idempotent-Replayed") == "true")
        if parsed is None or parsed.retry != ProblemRetry.SAME_KEY:
            sys.exit(f"not paid: {parsed}")
    sys.exit("it is not known what became of it")


for account in (AccountCreate(id="world", currency="EUR", floor=None), AccountCreate(id="alice", currency="EUR")):
    assert isinstance(create_account.sync(client=client, body=account), Account)

order = TransferCreate(source="world", destination="alice", amount=1250, currency="EUR", reference="order-1")
first, again = pay(order, "order-1"), pay(order, "order-1")
assert isinstance(first.answer, Transfer)
assert isinstance(again.answer, Transfer)

problem = pay(TransferCreate(source="alice", destination="world", amount=9_999, currency="EUR"), "order-2").answer
assert isinstance(problem, CreateTransferConflictProblem)

alice = get_account.sync(id="alice", client=client)
assert isinstance(alice, Account)
print(
    json.dumps(
        {
            "lost": first.lost,
            "replayed": again.replayed,
            "ids": [str(first.answer.id), str(again.answer.id)],
            "problem": [problem.status, problem.code, problem.outcome, problem.retry],
            "balance": alice.balance,
        }
    )
)
