"""Operational failures of the store: nobody's request is wrong, the store could not do it now."""

from collections.abc import Iterable


class StoreError(Exception):
    """The store failed."""


class StoreUnavailableError(StoreError):
    """The store could not be used in time. Nothing was done."""


class RowLockedError(StoreUnavailableError):
    """
    Another transaction has locked rows that are needed. Nothing was done.

    Args:
        accounts: The accounts whose rows may be meant.
    """

    def __init__(self, accounts: Iterable[str]) -> None:
        super().__init__("a row is locked by another transaction")
        self.accounts = tuple(accounts)


class StoreAwayError(StoreUnavailableError):
    """The store is known not to answer, and was not asked. Nothing was done."""


class OutcomeUnknownError(StoreError):
    """The store was lost while it worked, and did not come back in time to say whether it was done."""
