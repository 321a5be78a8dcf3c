"""Translates the driver's errors into errors of the store: no code above `server/store` sees an asyncpg error."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from server.store.errors import (
    AccessRefusedError,
    AddressError,
    ConnectionLostError,
    ConstraintError,
    DatabaseError,
    DuplicateError,
    NoAnswerError,
    PrivilegeMissingError,
    RoleMissingError,
    RolledBackError,
    RowLockedError,
    SchemaMissingError,
    StoreError,
    UnpreparedError,
)
from server.store.hosts import PoolerError

# All errors of the driver: of the socket, of the server, and its own. A timeout is an OSError.
DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# The connection is lost, or its server is shutting down; the statement may or may not have been done.
_LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
# The server has rolled the transaction back, for a transient reason.
_ROLLED_BACK = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidCachedStatementError,
)
# The server is shutting down, or has become a replica: its other connections cannot be used any more.
_SHUTTING_DOWN = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.PostgresConnectionError,
)


def translated(error: Exception) -> StoreError | DatabaseError:
    """Return the error of the store that one of DRIVER_ERRORS stands for."""
    kind = type(error).__name__
    match error:
        case PoolerError():
            return AddressError(str(error), kind)
        case TimeoutError():
            return NoAnswerError(kind)
        case asyncpg.LockNotAvailableError():
            return RowLockedError()
        case asyncpg.UniqueViolationError():
            return DuplicateError(str(error), kind, error.constraint_name)
        case asyncpg.IntegrityConstraintViolationError():
            return ConstraintError(str(error), kind, error.constraint_name)
        case asyncpg.InsufficientPrivilegeError():
            return PrivilegeMissingError(str(error), kind)
        case asyncpg.InvalidSchemaNameError() | asyncpg.UndefinedTableError():
            return SchemaMissingError(str(error), kind)
        case asyncpg.InvalidParameterValueError():
            return RoleMissingError(str(error), kind)
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InvalidCatalogNameError():
            return AccessRefusedError(str(error), kind)
        case asyncpg.UndefinedColumnError():
            return UnpreparedError(str(error), kind)
    if isinstance(error, _LOST):
        return ConnectionLostError(kind)
    if isinstance(error, _ROLLED_BACK):
        return RolledBackError(kind)
    return DatabaseError(str(error), kind)


def server_is_shutting_down(error: BaseException | None) -> bool:
    """Return whether a driver's error means that no connection to its server can be used any more."""
    return isinstance(error, _SHUTTING_DOWN)


@contextmanager
def translating() -> Iterator[None]:
    """
    Run driver calls and translate what they raise.

    Raises:
        StoreError, DatabaseError: As `translated` says.
        OSError: A file cannot be read.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        if isinstance(error, OSError) and error.filename:
            # This concerns a file, not the connection.
            raise
        raise translated(error) from error
