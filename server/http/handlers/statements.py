"""Handlers of statements and of the trial balance."""

from collections.abc import AsyncGenerator, Sequence
from functools import partial

import msgspec

from server.http import render
from server.http.accept import prefers
from server.http.call import Call
from server.http.headers import VARY_ACCEPT
from server.http.members import Count, CurrencyName, Instant, Sum
from server.http.narrowing import named_account
from server.http.problems import Problem, invalid
from server.http.query import StatementQuery, TrialBalanceQuery
from server.http.reply import Reply, StreamedReply
from server.http.statement_forms import CsvForm, Form, JsonForm
from server.http.streams import Streams
from server.ledger.accounts import AccountNotFoundError
from server.ledger.history import FutureInstantError
from server.ledger.narrowed import without_hidden
from server.ledger.prefixes import Prefixes
from server.ledger.statements import Line, Period, Statement, Statements
from server.ledger.trial_balance import CURRENCIES_MAX, TooManyCurrenciesError, TrialBalances


class TotalBody(msgspec.Struct, gc=False):
    """The accounts of one currency: the sums of balances below zero, of those above zero, and of both."""

    currency: CurrencyName
    debit: Sum
    credit: Sum
    net: Sum
    accounts: Count


class TrialBalanceBody(msgspec.Struct, gc=False):
    """A trial balance by currency; `at` is null if it is the present one."""

    prefix: str | None
    at: Instant | None
    data: list[TotalBody]


class StatementHandlers:
    """
    Handlers of statements and of the trial balance.

    Args:
        statements: Makes statements.

        trial_balances: Makes trial balances.

        streams: Limits the answers that are sent in pieces.
    """

    def __init__(self, statements: Statements, trial_balances: TrialBalances, streams: Streams) -> None:
        self._statements = statements
        self._trial_balances = trial_balances
        self._streams = streams

    async def get_statement(self, call: Call, query: StatementQuery) -> Reply:
        """Answer with the statement of an account: in one piece if it is short, otherwise in many."""
        account, accounts = named_account(call), call.key.accounts
        if query.since is not None and query.until is not None and query.since > query.until:
            raise invalid("from", "The period begins after it ends.")
        period = Period(query.since, query.until, query.by == "effective")
        try:
            statement = await self._statements.open(call.ledger_id, account, period, call.release_place)
        except AccountNotFoundError:
            raise Problem("account_not_found") from None
        except FutureInstantError:
            raise invalid("from", "The instant is in the future.") from None
        form: Form = CsvForm() if prefers(call.headers.getall("Accept", ()), "text/csv") else JsonForm()
        lines = without_hidden(await statement.read_on(), accounts)
        if statement.ended:
            body = form.begin(statement) + form.lines(lines) + form.end(statement)
            return Reply(200, body, content_type=form.content_type, headers=VARY_ACCEPT)
        if call.method == "HEAD":
            return StreamedReply(None, content_type=form.content_type, headers=VARY_ACCEPT)
        self._streams.enter(call.ledger_id)
        ended = partial(self._streams.leave, call.ledger_id)
        return StreamedReply(
            _pieces(statement, form, lines, accounts), ended, content_type=form.content_type, headers=VARY_ACCEPT
        )

    async def get_balances(self, call: Call, query: TrialBalanceQuery) -> Reply:
        """Answer with the trial balance of the ledger, or of the accounts of a prefix."""
        # A trial balance keeps no place: it may take a thousand times as long as other requests.
        call.release_place()
        try:
            own = call.key.accounts
            prefixes = (query.prefix,) if own is None else own.under(query.prefix)
            totals = await self._trial_balances.read(call.ledger_id, prefixes, query.at)
        except FutureInstantError:
            raise invalid("at", "The instant is in the future.") from None
        except TooManyCurrenciesError:
            detail = f"These accounts have more than {CURRENCIES_MAX} currencies. Use longer prefixes."
            raise invalid("prefix", detail) from None
        body = TrialBalanceBody(
            str(query.prefix) or None,
            None if query.at is None else render.instant(query.at),
            [TotalBody(total.currency, total.debit, total.credit, total.net, total.accounts) for total in totals],
        )
        return Reply(200, msgspec.json.encode(body))


async def _pieces(
    statement: Statement, form: Form, first: Sequence[Line], accounts: Prefixes | None
) -> AsyncGenerator[bytes, None]:
    """Make the pieces of a statement, after the *first* lines that are read already, for a key of these *accounts*."""
    yield form.begin(statement) + form.lines(first)
    while not statement.ended:
        yield form.lines(without_hidden(await statement.read_on(), accounts))
    yield form.end(statement)
