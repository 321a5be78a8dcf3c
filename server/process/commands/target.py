"""The database a command works on: the one that is named, or the embedded one, running already or started for it."""

import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from server.process.embedded.errors import EmbeddedError
from server.settings import Settings

if TYPE_CHECKING:
    from server.store.postgres import Database

# What a command does on a database, once its words have been understood; it returns the exit code.
Action = Callable[["Database"], Awaitable[int]]


class Target(NamedTuple):
    """Addresses of the servers, whether they are the embedded ones, and the processes that were started for this."""

    database_url: str
    redis_url: str | None
    embedded: bool
    processes: "tuple[subprocess.Popen[bytes], ...]" = ()


@contextmanager
def open_target(settings: Settings, *, redis: bool = False, serving: bool = False) -> Iterator[Target]:
    """
    Give the servers that the settings name; embedded servers that are started here are stopped afterwards.

    Args:
        redis: Whether Redis is needed too.

        serving: Whether the embedded servers must not end before this process does.

    Raises:
        EmbeddedError: An embedded server cannot be started, or another process serves with it.
    """
    start_postgres = settings.database_url is None
    start_redis = redis and settings.redis_url is None
    if not (start_postgres or start_redis):
        assert settings.database_url is not None, "otherwise Postgres would be started"
        yield Target(settings.database_url, settings.redis_url, embedded=False)
        return
    # `serve` on servers that are named loads neither these nor the driver.
    from server.process.embedded.servers import EmbeddedServers  # noqa: PLC0415

    with EmbeddedServers.open(
        Path(settings.data_dir), postgres=start_postgres, redis=start_redis, serving=serving
    ) as servers:
        database_url = settings.database_url or servers.database_url
        assert database_url is not None, "one of the two was started or given"
        redis_url = settings.redis_url or servers.redis_url
        yield Target(database_url, redis_url, embedded=start_postgres, processes=servers.processes)


async def migrate_target(target: Target, settings: Settings) -> list[str]:
    """
    Bring the target's database to the state this program needs and return what was done, a line each.

    Raises:
        EmbeddedError: The embedded data were made by another program than a released one.
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
            f"read ({error}). Name another directory with --data-dir, or remove this one with all that is in it."
        ) from error
