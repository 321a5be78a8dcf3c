"""Makes databases for tests: one migrated template, copied for every test that needs its own database."""

import itertools
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from server.store.migrations import migrate

TEMPLATE = "tallystick_template"
_numbers = itertools.count(1)


def with_database(url: str, name: str) -> str:
    """Return *url* with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def administer(url: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
    """Run one statement as the superuser."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def create_template(url: str) -> None:
    """Make the template: a database with all migrations."""
    await administer(url, f"CREATE DATABASE {TEMPLATE}")
    await migrate(with_database(url, TEMPLATE))


async def create_database(url: str, template: str = TEMPLATE) -> str:
    """Copy a database without open connections, and return the address of the copy."""
    name = f"test_{next(_numbers)}"
    # Copying files costs less than writing them to the log, which is the default for small databases.
    await administer(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    return with_database(url, name)


async def create_empty_database(url: str) -> str:
    """Make a database without a schema and return its address."""
    name = f"test_{next(_numbers)}"
    await administer(url, f"CREATE DATABASE {name}")
    return with_database(url, name)


async def drop_database(url: str, copy: str) -> None:
    """Drop a copy, even if it has open connections."""
    await administer(url, f"DROP DATABASE IF EXISTS {urlsplit(copy).path[1:]} WITH (FORCE)")
