"""The driver accepts only lists and tuples as arrays, and each arrives as it was sent."""

import json
from collections import UserList
from collections.abc import AsyncIterator
from datetime import UTC

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.ledger.limits import BALANCE_MAX, BALANCE_MIN
from server.store.pools import Connection, Pool
from server.store.postgres import ACQUIRE_TIMEOUT_SECONDS

# All text that Postgres can store: no NUL characters and no halves of surrogate pairs.
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
INTEGERS = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), 2**31 - 1])
NUMBERS = st.integers(BALANCE_MIN, BALANCE_MAX) | st.sampled_from([BALANCE_MIN, BALANCE_MAX])
ELEMENTS = {
    "text": TEXTS,
    "integer": INTEGERS,
    "bigint": NUMBERS,
    "bytea": st.binary(),
    "uuid": st.uuids(),
    "json": TEXTS.map(json.dumps),
    "boolean": st.booleans(),
    "timestamptz": st.datetimes(timezones=st.just(UTC)),
}

# Each example runs a statement, maybe on a busy machine. All examples may use one connection.
PATIENT = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50
)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A connection of the service."""

    async def meet(_: object) -> None:
        """Accept every new connection without a check."""

    pool = Pool(database_url, 1, meet)
    await pool.open()
    lent = await pool.acquire(ACQUIRE_TIMEOUT_SECONDS)
    yield lent
    await pool.release(lent, failed=False)
    await pool.close()


@pytest.mark.parametrize("kind", ELEMENTS)
@PATIENT
@given(data=st.data())
async def test_an_array_arrives_as_it_was_sent(connection: Connection, kind: str, data: st.DataObject) -> None:
    """Values at their limits, any characters, nulls and empty arrays come back the same."""
    sent = data.draw(st.lists(st.none() | ELEMENTS[kind]))
    statement = f"SELECT $1::{kind}[]"
    assert await connection.fetchval(statement, sent) == sent
    assert await connection.fetchval(statement, tuple(sent)) == sent


async def test_nothing_else_is_taken_for_an_array(connection: Connection) -> None:
    """
    Only lists and tuples count as arrays. The driver alone would accept anything with a length and elements, and would
    check that for every element.
    """
    for other in (UserList(["a"]), {"a"}, "a"):
        with pytest.raises(asyncpg.DataError):
            await connection.fetchval("SELECT $1::text[]", other)


async def test_elements_are_not_taken_for_arrays(connection: Connection) -> None:
    """A wrong element is an error and is not taken for a nested array."""
    with pytest.raises(asyncpg.DataError):
        await connection.fetchval("SELECT $1::bigint[]", [1, UserList([2])])
    assert await connection.fetchval("SELECT $1::bigint[]", [[1, 2], [3, 4]]) == [[1, 2], [3, 4]]
