"""What must hold of all accounts after the books were posted, and again after the replay."""

from collections.abc import Iterable, Mapping

from loadtests.answers import AccountState
from loadtests.client import LedgerClient
from loadtests.passes import Mismatch, Stand

Accounts = dict[str, AccountState]


async def read_accounts(client: LedgerClient) -> Accounts:
    """Every account of the ledger by its id."""
    return {account.id: account async for account in client.accounts()}


def sums_are_zero(accounts: Accounts, when: str) -> list[Mismatch]:
    """In each currency what some accounts have is what the others owe."""
    sums: dict[str, int] = {}
    for account in accounts.values():
        sums[account.currency] = sums.get(account.currency, 0) + account.balance
    return [
        Mismatch(f"sum of all {currency} balances after {when}", "0", str(total))
        for currency, total in sums.items()
        if total != 0
    ]


def stands_are_as_answered(accounts: Accounts, stands: Mapping[str, Stand]) -> list[Mismatch]:
    """No account reads older than its last answer, nor otherwise at the same version."""
    found = []
    for name, stand in stands.items():
        account = accounts.get(name)
        if account is None:
            found.append(Mismatch(f"account {name}", "to be listed", "nothing"))
        # A later version belongs to somebody else's transfer, or to an earlier, longer replay.
        elif account.version <= stand.version and _stand(account) != stand:
            found.append(Mismatch(f"account {name}", _words(stand), _words(_stand(account))))
    return found


def nothing_changed(before: Accounts, after: Accounts, names: Iterable[str]) -> list[Mismatch]:
    """The named accounts have the version and the balance that they had."""
    return [
        Mismatch(
            f"account {name} after the replay",
            _words(_stand(before[name])),
            _words(_stand(after[name])) if name in after else "nothing",
        )
        for name in names
        if name in before and (name not in after or _stand(after[name]) != _stand(before[name]))
    ]


def _stand(account: AccountState) -> Stand:
    return Stand(account.version, account.balance)


def _words(stand: Stand) -> str:
    return f"balance {stand.balance} at version {stand.version}"
