"""Pages are bounded by bytes too: a list of large rows takes more pages and leaves out no row."""

import pytest

from server.http.limits import PAGE_BYTES_MAX
from tests.api.steps import pages
from tests.support.client import Client

# About 60 kB, close to the largest body.
LARGE = {f"key-{number}": "€" * 400 for number in range(50)}
ROWS = 12


@pytest.fixture
async def large(client: Client) -> Client:
    """A client whose ledger has large accounts, and large transfers between two of them."""
    await client.open("world", floor=None)
    for number in range(ROWS):
        assert (await client.open(f"large-{number:02d}", metadata=LARGE)).status == 201
        answer = await client.transfer("world", "large-00", 1, metadata=LARGE)
        assert answer.status == 201
    return client


@pytest.mark.parametrize("path", ["/v1/accounts?prefix=large", "/v1/transfers", "/v1/transfers?account=large-00"])
async def test_a_page_of_large_rows_ends_early(large: Client, path: str) -> None:
    """A page holds the rows that fit, and its cursor leads to the next row."""
    answer = await large.get(f"{path}{'&' if '?' in path else '?'}limit=100")
    assert answer.status == 200
    assert PAGE_BYTES_MAX / 2 < len(answer.body) < PAGE_BYTES_MAX + 1_000
    found = [row for rows in await pages(large, path, 100) for row in rows]
    assert len(found) == ROWS
    assert len({row["id"] for row in found}) == ROWS
    assert [row["metadata"] for row in found] == [LARGE] * ROWS


async def test_a_row_larger_than_a_page_is_a_page(large: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page has at least one row, however small the bound, so the list always ends."""
    monkeypatch.setattr("server.http.listing.PAGE_BYTES_MAX", 1_000)
    found = await pages(large, "/v1/accounts?prefix=large", 100)
    assert [len(rows) for rows in found] == [1] * ROWS
