"""Operational failures of the store: nobody's request is wrong, the store could not do it now."""


class StoreError(Exception):
    """The store failed."""


class StoreUnavailableError(StoreError):
    """The store could not be used in time. Nothing was done."""


class RowLockedError(StoreUnavailableError):
    """A row stayed locked by somebody else for longer than a batch holds one. Nothing was done."""


class StoreAwayError(StoreUnavailableError):
    """The store is known not to answer, and was not asked. Nothing was done."""


class OutcomeUnknownError(StoreError):
    """The store was lost while it worked, and did not come back in time to say whether it was done."""
