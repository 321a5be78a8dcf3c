"""
The errors of the store, as the rest of the service sees them; `driver_errors.py` chooses among them.

    StoreError                      it could not be done now, and the request is not at fault
    ├── StoreUnavailableError       nothing was done
    │   ├── NoConnectionError       no connection was available
    │   │   └── NoneFreeError       all connections of the pool are in use
    │   ├── RolledBackError         the server has rolled the transaction back
    │   ├── RowLockedError          another transaction has locked a row
    │   └── StoreAwayError          the breaker is open
    └── OutcomeUnknownError         it may have been done
        └── ConnectionLostError     the connection was lost during the statement
            └── NoAnswerError       no answer came in time
    DatabaseError                   Postgres refuses the statement, and would again
    ├── ConstraintError             a constraint forbids it
    │   └── DuplicateError          a unique constraint
    └── UnpreparedError             the database is not ready for this program
        ├── AddressError            the driver cannot use the address
        ├── AccessRefusedError      the user or the database does not exist
        ├── RoleMissingError        our role does not exist
        └── SchemaMissingError      a table is missing
            └── PrivilegeMissingError
"""

from collections.abc import Iterable


class StoreError(Exception):
    """The store could not do what was asked now."""


class StoreUnavailableError(StoreError):
    """The store could not be used in time. Nothing was done."""


class NoConnectionError(StoreUnavailableError):
    """No connection to Postgres was available. Nothing was sent."""


class NoneFreeError(NoConnectionError):
    """All connections of the pool stayed in use: Postgres answers, but is busy."""


class RolledBackError(StoreUnavailableError):
    """Postgres has rolled the transaction back for a transient reason, such as a deadlock or a switch-over."""


class RowLockedError(StoreUnavailableError):
    """
    Another transaction has locked rows that are needed. Nothing was done.

    Args:
        accounts: The names of the rows that may be locked: `ledger/row_locks.py` describes them.
    """

    def __init__(self, accounts: Iterable[str] = ()) -> None:
        super().__init__("a row is locked by another transaction")
        self.accounts = tuple(accounts)


class StoreAwayError(StoreUnavailableError):
    """The store is known not to answer, and was not asked. Nothing was done."""


class OutcomeUnknownError(StoreError):
    """The connection was lost during the work, and it was not found out in time whether the work was done."""


class ConnectionLostError(OutcomeUnknownError):
    """The connection, or the server behind it, was lost during a statement."""


class NoAnswerError(ConnectionLostError):
    """A statement was not answered in time."""


class DatabaseError(Exception):
    """
    Postgres refuses a statement or a connection, and would refuse it again.

    Its string is safe to log: it has the name of the driver's error, and no value of a row.

    Args:
        text: The message of Postgres. It may quote a whole row, so it is shown to operators only.

        kind: The name of the driver's error.
    """

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(kind)
        self.text = text
        self.kind = kind


class ConstraintError(DatabaseError):
    """
    A constraint forbids what a statement does.

    Args:
        constraint: The name of the constraint.
    """

    def __init__(self, text: str, kind: str, constraint: str | None) -> None:
        super().__init__(text, kind)
        self.constraint = constraint

    def __str__(self) -> str:
        """Return the names of the driver's error and of the constraint."""
        return f"{self.kind} ({self.constraint})"


class DuplicateError(ConstraintError):
    """A row with the same unique value exists."""


class UnpreparedError(DatabaseError):
    """The database has no role, schema or table of ours, or those of another version."""


class AddressError(UnpreparedError):
    """The address of Postgres cannot be used."""

    def explained(self) -> str:
        """Return what it means to an operator."""
        return f"the address of Postgres is refused: {self.text}"


class AccessRefusedError(UnpreparedError):
    """The user or the database does not exist, or the password is wrong."""


class RoleMissingError(UnpreparedError):
    """The service's role does not exist."""


class SchemaMissingError(UnpreparedError):
    """The schema or a table does not exist."""


class PrivilegeMissingError(SchemaMissingError):
    """The service's role lacks a privilege."""
