"""Opens the database that a command works on: the one in the settings, or the embedded one, started if necessary."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from server.process.embedded.errors import EmbeddedError
from server.settings import Settings

if TYPE_CHECKING:
    from server.process.embedded.servers import EmbeddedServers
    from server.store.postgres import Database

# The work of a command on a database, made from its arguments; returns the exit code.
Action = Callable[["Database"], Awaitable[int]]


class Target(NamedTuple):
    """The addresses of the servers, whether PostgreSQL is embedded, and the embedded servers if there are any."""

    database_url: str
    redis_url: str | None
    embedded: bool
    servers: "EmbeddedServers | None" = None


@contextmanager
def open_target(
    settings: Settings, *, redis: bool = False, serving: bool = False, making: bool = False
) -> Iterator[Target]:
    """
    Yield the servers that the settings name; embedded servers that are started here are stopped afterwards.

    Args:
        redis: Whether Redis is needed too.

        serving: Whether the embedded servers must not end before this process does.

        making: Whether an embedded PostgreSQL may be made. A command that only reads must not make an empty one,
            because it would find nothing wrong with it.

    Raises:
        EmbeddedError: An embedded server cannot be started, another process serves with it, or there is no ledger.
    """
    start_postgres = settings.database_url is None
    start_redis = redis and settings.redis_url is None
    if not (start_postgres or start_redis):
        assert settings.database_url is not None, "otherwise Postgres would be started"
        yield Target(settings.database_url, settings.redis_url, embedded=False)
        return
    # Import this, with its driver, only if embedded servers are needed.
    from server.process.embedded.servers import EmbeddedServers  # noqa: PLC0415

    with EmbeddedServers.open(
        Path(settings.data_dir),
        postgres=start_postgres,
        redis=start_redis,
        serving=serving,
        making=making or not start_postgres,
    ) as servers:
        database_url = settings.database_url or servers.database_url
        assert database_url is not None, "one of the two was started or given"
        redis_url = settings.redis_url or servers.redis_url
        yield Target(database_url, redis_url, embedded=start_postgres, servers=servers)


class Stores(NamedTuple):
    """The addresses of PostgreSQL and Redis, or for each the error why it is not available."""

    postgres: str | EmbeddedError
    redis: str | EmbeddedError


@contextmanager
def open_stores(settings: Settings) -> Iterator[Stores]:
    """
    Yield those of the servers in the settings that are available.

    Embedded servers are started if no process serves with them, and stopped afterwards. If there is no ledger, nothing
    is made.
    """
    from server.process.embedded.servers import EmbeddedServers  # noqa: PLC0415

    making = settings.database_url is not None
    with ExitStack() as stack:

        def opened(*, postgres: bool) -> str | EmbeddedError:
            try:
                servers = stack.enter_context(
                    EmbeddedServers.open(
                        Path(settings.data_dir), postgres=postgres, redis=not postgres, making=making, patient=False
                    )
                )
            except EmbeddedError as error:
                return error
            address = servers.database_url if postgres else servers.redis_url
            assert address is not None, "it was asked for"
            return address

        yield Stores(settings.database_url or opened(postgres=True), settings.redis_url or opened(postgres=False))


async def migrate_target(target: Target, settings: Settings) -> list[str]:
    """
    Migrate the target's database to what this program needs, and return a line for each change.

    Raises:
        EmbeddedError: An unreleased version of this program made the embedded data.
        MigrationError, StoreUnavailableError, DatabaseError: As `migrate`.
    """
    from server.store.migrations import MigrationChangedError, migrate  # noqa: PLC0415

    try:
        return await migrate(target.database_url)
    except MigrationChangedError as error:
        if not target.embedded:
            raise
        raise EmbeddedError(
            f"{settings.data_dir} holds data of an unreleased version of this program, which no other version can "
            f"read ({error}). Name another directory with --data-dir, or remove this one and everything in it."
        ) from error
