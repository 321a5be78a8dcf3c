"""Fixtures: one ledger for each test file, with a way to read all of its rows."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.client import Client
from tests.support.service import Service

_books = itertools.count(1)


class Book:
    """
    A ledger with the accounts `world` (no floor), `alice` and `bob`, and access to all of its rows.

    Args:
        client: With an admin key of the ledger.
        connection: A direct connection to the database.
    """

    def __init__(self, client: Client, connection: "asyncpg.Connection[asyncpg.Record]", name: str) -> None:
        self.client = client
        self._connection = connection
        self._name = name

    async def rows(self) -> tuple[list[Any], list[Any]]:
        """Return all rows of accounts, and the keys of all transfers, refused ones too."""
        accounts = await self._connection.fetch(
            "SELECT a::text FROM tallystick.accounts AS a JOIN tallystick.ledgers AS l ON l.id = ledger_id"
            " WHERE name = $1 ORDER BY a.id",
            self._name,
        )
        transfers = await self._connection.fetch(
            "SELECT idempotency_key FROM tallystick.transfers JOIN tallystick.ledgers AS l ON l.id = ledger_id"
            " WHERE name = $1 ORDER BY 1",
            self._name,
        )
        return [row[0] for row in accounts], [row[0] for row in transfers]


@pytest.fixture(scope="module")
async def book(service: Service) -> AsyncIterator[Book]:
    """A ledger that the tests of one file share."""
    name = f"input-{next(_books)}"
    client = await service.client(name)
    assert (await client.open("world", floor=None)).status == 201
    for account in ("alice", "bob"):
        assert (await client.open(account)).status == 201
    connection = await asyncpg.connect(service.database_url)
    yield Book(client, connection, name)
    await connection.close()
