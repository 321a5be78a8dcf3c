"""Routes of accounts and of their entries, balances and statements."""

from typing import Final

from server.gate.keys import Role
from server.http import models, render
from server.http.handlers.accounts import AccountHandlers
from server.http.handlers.statements import StatementHandlers
from server.http.query import AccountQuery, AccountsQuery, BalanceQuery, EntriesQuery, StatementQuery
from server.http.route import Route
from server.http.statement_forms import CSV_TEXT, StatementBody

_TAG: Final = "Accounts"
_OPENED_ONCE: Final = "The id of the account serves as the key: a repeated request opens nothing and gets a 200."
_CHANGED_ONCE: Final = "With If-Match a change is made once: a repeated request gets a 412."
_ACCOUNT: Final = {"id": "customer:43", "currency": "EUR", "metadata": {"plan": "basic"}}

ACCOUNTS: Final = (
    Route(
        "POST",
        "/v1/accounts",
        Role.WRITE,
        AccountHandlers.create_account,
        "Open an account",
        _TAG,
        body=models.AccountCreate,
        examples={
            "A customer's account": _ACCOUNT,
            "A funding account, without a floor": {"id": "bank:payouts", "currency": "EUR", "floor": None},
            "A wallet with a ceiling": {"id": "wallet:7", "currency": "EUR", "ceiling": 100_000},
        },
        answers={201: render.AccountBody, 200: render.AccountBody},
        problems=("account_exists",),
        keyless=_OPENED_ONCE,
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/accounts",
        Role.READ,
        AccountHandlers.list_accounts,
        "List accounts by id",
        _TAG,
        query=AccountsQuery,
        answers={200: render.Page[render.AccountBody]},
        narrowed=True,
    ),
    Route(
        "POST",
        "/v1/accounts/bulk",
        Role.WRITE,
        AccountHandlers.create_accounts,
        "Open up to 1,000 accounts",
        _TAG,
        body=models.AccountBulk,
        examples={"Two accounts": {"accounts": [_ACCOUNT, {"id": "customer:44", "currency": "EUR"}]}},
        answers={200: render.Results[render.AccountResult]},
        keyless=_OPENED_ONCE,
        items="accounts",
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/accounts/{id}",
        Role.READ,
        AccountHandlers.get_account,
        "Read an account",
        _TAG,
        name=models.AccountId,
        query=AccountQuery,
        fields=("If-None-Match", "Cache-Control"),
        answers={200: render.AccountBody, 304: None},
        problems=("account_not_found", "version_not_reached"),
        look_up=AccountHandlers.snapshot,
        hot=True,
        narrowed=True,
    ),
    Route(
        "PATCH",
        "/v1/accounts/{id}",
        Role.WRITE,
        AccountHandlers.patch_account,
        "Change an account's limits or metadata, or close it",
        _TAG,
        name=models.AccountId,
        body=models.AccountPatch,
        examples={
            "A credit line": {"floor": -50_000},
            "Set one metadata entry and remove another": {"metadata": {"plan": "gold", "trial": None}},
            "Close the account": {"closed": True},
        },
        fields=("If-Match",),
        answers={200: render.AccountBody},
        problems=("account_not_found", "limits_conflict", "metadata_full", "precondition_failed"),
        keyless=_CHANGED_ONCE,
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/accounts/{id}/entries",
        Role.READ,
        AccountHandlers.list_entries,
        "List an account's entries, newest first",
        _TAG,
        name=models.AccountId,
        query=EntriesQuery,
        answers={200: render.Page[render.EntryBody]},
        problems=("account_not_found",),
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/accounts/{id}/balance",
        Role.READ,
        AccountHandlers.get_balance,
        "Read a past balance",
        _TAG,
        name=models.AccountId,
        query=BalanceQuery,
        answers={200: render.BalanceBody},
        problems=("account_not_found",),
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/accounts/{id}/statement",
        Role.READ,
        StatementHandlers.get_statement,
        "Read an account's statement",
        _TAG,
        name=models.AccountId,
        query=StatementQuery,
        answers={200: (StatementBody, CSV_TEXT)},
        problems=("account_not_found",),
        narrowed=True,
    ),
)
