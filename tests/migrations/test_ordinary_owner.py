"""Migrations by a user who is no superuser, as managed databases provide."""

from urllib.parse import urlsplit, urlunsplit

import pytest

from server.store.errors import PrivilegeMissingError
from server.store.migrations import migrate
from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import administer, with_database
from tests.support.service import in_process

# What an administrator does beforehand, so that the user gets the two roles.
CREATES_ROLES = ["CREATE ROLE books LOGIN CREATEROLE PASSWORD 'books'"]
WAS_GIVEN_ROLES = [
    "CREATE ROLE tallystick_owner NOLOGIN",
    "CREATE ROLE tallystick_service NOLOGIN",
    "CREATE ROLE books LOGIN PASSWORD 'books'",
    "GRANT tallystick_owner, tallystick_service TO books",
]
# The user is granted the roles without the right to SET them, and cannot grant itself that right.
MAY_NOT_BECOME_THEM = [*WAS_GIVEN_ROLES[:3], "GRANT tallystick_owner, tallystick_service TO books WITH SET FALSE"]


async def prepared(server: OwnPostgres, statements: list[str]) -> str:
    """Make a database that the user `books` owns, and return its address for that user."""
    for statement in [*statements, "CREATE DATABASE books OWNER books"]:
        await administer(server.database_url, statement)
    address = urlsplit(with_database(server.database_url, "books"))
    return urlunsplit(address._replace(netloc="books:books@"))


@pytest.mark.parametrize("statements", [CREATES_ROLES, WAS_GIVEN_ROLES], ids=["creates roles", "was given roles"])
async def test_an_ordinary_owner_migrates_and_serves(own_postgres: OwnPostgres, statements: list[str]) -> None:
    """The user of the address can migrate repeatedly, and the service runs with the same address."""
    url = await prepared(own_postgres, statements)
    assert (await migrate(url))[0] == "migration 0001_ledgers_accounts_transfers"
    assert await migrate(url) == []
    async with in_process(url) as service:
        client = await service.client("books")
        assert (await client.get("/readyz")).status == 200
        await client.fund("alice", 5)
        assert await client.balance("alice") == 5


async def test_an_owner_that_may_not_become_its_roles_is_refused(own_postgres: OwnPostgres) -> None:
    """If a user can neither create the roles nor become them, `migrate` is refused by Postgres and creates nothing."""
    url = await prepared(own_postgres, MAY_NOT_BECOME_THEM)
    with pytest.raises(PrivilegeMissingError):
        await migrate(url)
    books = with_database(own_postgres.database_url, "books")
    assert await administer(books, "SELECT FROM pg_namespace WHERE nspname = 'tallystick'") == []
