"""Routes of the ledger of a key, and of the key itself."""

from typing import Final

from server.gate.keys import Role
from server.http.handlers.integrity import IntegrityBody, IntegrityHandlers
from server.http.handlers.key_limits import LimitHandlers, LimitsBody
from server.http.handlers.ledger import LedgerBody, LedgerHandlers
from server.http.handlers.statements import StatementHandlers, TrialBalanceBody
from server.http.query import TrialBalanceQuery
from server.http.route import Route

_TAG: Final = "Ledger"

LEDGER: Final = (
    Route(
        "GET",
        "/v1/ledger",
        Role.READ,
        LedgerHandlers.get_ledger,
        "Read a summary of the ledger",
        _TAG,
        answers={200: LedgerBody},
        has_amounts=False,
    ),
    Route(
        "GET",
        "/v1/balances",
        Role.READ,
        StatementHandlers.get_balances,
        "Sum balances by currency",
        _TAG,
        query=TrialBalanceQuery,
        answers={200: TrialBalanceBody},
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/limits",
        Role.READ,
        LimitHandlers.get_limits,
        "Read the key's limits and what is left of them",
        _TAG,
        answers={200: LimitsBody},
        cost=LimitHandlers.cost,
        narrowed=True,
        has_amounts=False,
    ),
    Route(
        "GET",
        "/v1/integrity",
        Role.ADMIN,
        IntegrityHandlers.get_integrity,
        "Read the findings of the auditor",
        _TAG,
        answers={200: IntegrityBody},
        has_amounts=False,
    ),
)
