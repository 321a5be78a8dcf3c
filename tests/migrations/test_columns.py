"""The columns that statements return match the fields of the tuples that are made of them."""

from collections.abc import Mapping
from typing import Any

import asyncpg

from server.ledger.accounts import Account
from server.ledger.history import Entry
from server.ledger.statements import Line
from server.ledger.transfers import Attempt, Progress
from server.store.sql import query

# The fields of a statement's tuple, or of the two that its columns are divided between.
NAMED: Mapping[str, tuple[Any, ...]] = {
    "account_create_many": (Account,),
    "account_patch": (Account,),
    "account_read_many": (Account,),
    "account_page": (Account,),
    "entry_page": (Entry,),
    "statement_page": (Line,),
    "statement_page_back_dated": (Line,),
    "transfer_by_id": (Attempt, Progress),
    "transfer_by_key": (Attempt, Progress),
    "transfer_by_keys": (Attempt,),
    "transfer_page": (Attempt,),
    "transfer_page_by_account": (Attempt,),
    "transfer_page_by_reference": (Attempt,),
    "transfer_page_by_reference_and_account": (Attempt,),
}


async def test_columns_are_fields(database_url: str) -> None:
    """A statement returns the fields of its tuples, with the same names in the same order."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "tallystick"})
    found: dict[str, list[str]] = {}
    try:
        for name in NAMED:
            prepared = await connection.prepare(query(name))
            found[name] = [attribute.name for attribute in prepared.get_attributes()]
    finally:
        await connection.close()
    found["entry_page"][0] = "transfer_id"
    for name in ("statement_page", "statement_page_back_dated"):
        # The balance is a sum.
        found[name] = ["transfer_id", *found[name][1:], "balance"]
    for name in (name for name in found if name.startswith("transfer_page")):
        assert found[name][-2:] == ["matches", "number"]
        del found[name][-2:]
    assert found == {name: [field for part in parts for field in part._fields] for name, parts in NAMED.items()}
