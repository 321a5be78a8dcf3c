"""A server without our roles for tests of migrations; separate, because roles belong to all databases of a server."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import administer

_OTHER_DATABASES = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname NOT IN ('postgres', $1)"
_ROLES = "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname NOT LIKE 'pg\\_%'"


@pytest.fixture(scope="session")
def server_without_roles(fresh_cluster: Path) -> Iterator[OwnPostgres]:
    """One server for all of these tests, because starting one takes longer than most of them."""
    with tempfile.TemporaryDirectory(prefix="ts-own-") as folder:
        server = OwnPostgres(Path(folder), fresh_cluster)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture
async def own_postgres(server_without_roles: OwnPostgres) -> AsyncIterator[OwnPostgres]:
    """The server; everything that a test leaves on it is removed."""
    yield server_without_roles
    url = server_without_roles.database_url
    [own] = await administer(url, "SELECT current_database()")
    for database in await administer(url, _OTHER_DATABASES, own[0]):
        await administer(url, f"DROP DATABASE {database[0]} WITH (FORCE)")
    await administer(url, "DROP SCHEMA IF EXISTS tallystick CASCADE")
    for role in await administer(url, _ROLES):
        await administer(url, f"DROP OWNED BY {role[0]} CASCADE")
        await administer(url, f"DROP ROLE {role[0]}")
