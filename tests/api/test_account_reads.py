"""Reading accounts: entity tags, versions asked for, HEAD, and the list."""

import pytest

from tests.api.steps import pages
from tests.support.client import Client


async def test_an_entity_tag_is_the_version(client: Client) -> None:
    """The tag follows every change of the account, and a reader that sends the current tag gets a 304."""
    await client.fund("alice", 100)
    first = await client.get("/v1/accounts/alice")
    assert (first.status, first.headers["ETag"], first.json["version"]) == (200, '"2"', 2)
    unchanged = await client.get("/v1/accounts/alice", If_None_Match='"2"')
    assert (unchanged.status, unchanged.body, unchanged.headers["ETag"]) == (304, b"", '"2"')
    await client.transfer("world", "alice", 1)
    changed = await client.get("/v1/accounts/alice", If_None_Match='"2"')
    assert (changed.status, changed.headers["ETag"], changed.json["balance"]) == (200, '"3"', 101)


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        pytest.param('"1"', 304, id="the tag"),
        pytest.param('W/"1"', 304, id="the tag, weakened on its way"),
        pytest.param('"7", "1"', 304, id="a list that has it"),
        pytest.param('"7",W/"1","8"', 304, id="a list that has it, without spaces"),
        pytest.param("*", 304, id="any"),
        pytest.param('"2"', 200, id="another tag"),
        pytest.param('"11"', 200, id="a tag that holds it"),
        pytest.param('"7", "8"', 200, id="a list that does not have it"),
        pytest.param("1", 200, id="no tag at all"),
        pytest.param("", 200, id="nothing"),
    ],
)
async def test_if_none_match(client: Client, tags: str, status: int) -> None:
    """If-None-Match is compared as HTTP says: weakly, and with every tag of the list."""
    await client.open("alice")
    assert (await client.get("/v1/accounts/alice", If_None_Match=tags)).status == status


async def test_a_missing_account_is_missing_whatever_tag_is_sent(client: Client) -> None:
    """A missing account is never answered with 304."""
    assert (await client.get("/v1/accounts/nobody", If_None_Match="*")).status == 404


async def test_head_is_get_without_its_body(client: Client) -> None:
    """HEAD returns the status and headers of GET, for existing and for missing resources."""
    await client.open("alice")
    for path, tags in (("/v1/accounts/alice", ""), ("/v1/accounts/alice", '"1"'), ("/v1/accounts/nobody", "")):
        headers = {"If-None-Match": tags, "X-Request-Id": "same"}
        get = await client.send("GET", path, headers=headers)
        head = await client.send("HEAD", path, headers=headers)
        assert (head.status, head.body) == (get.status, b"")
        for name in ("ETag", "Content-Type", "Content-Length", "Cache-Control", "X-Request-Id"):
            assert head.headers.get(name) == get.headers.get(name), name


@pytest.mark.parametrize("version", ["0", "1", "2"])
async def test_a_version_that_was_reached_is_served(client: Client, version: str) -> None:
    """A reader may ask for at least a given version."""
    await client.fund("alice", 1)
    answer = await client.get(f"/v1/accounts/alice?min_version={version}")
    assert (answer.status, answer.json["version"]) == (200, 2)


async def test_a_version_that_was_not_reached_is_refused(client: Client) -> None:
    """An older state is not returned when a later version is asked for."""
    await client.open("alice")
    answer = await client.get("/v1/accounts/alice?min_version=2", If_None_Match='"1"')
    assert (answer.status, answer.code) == (409, "version_not_reached")


@pytest.mark.parametrize(
    "query", ["min_version=-1", "min_version=x", "min_version=9223372036854775808", "min_version=", "version=1"]
)
async def test_a_wrong_query_is_refused(client: Client, query: str) -> None:
    """A query parameter that is unknown or not a number is a 400."""
    await client.open("alice")
    assert (await client.get(f"/v1/accounts/alice?{query}")).status == 400


async def test_no_cache_reads_what_is_committed(client: Client) -> None:
    """With `Cache-Control: no-cache`, as without it, the answer includes the write just acknowledged."""
    await client.fund("alice", 5)
    for expected in range(6, 10):
        await client.transfer("world", "alice", 1)
        fresh = await client.get("/v1/accounts/alice", Cache_Control="no-cache")
        usual = await client.get("/v1/accounts/alice")
        assert (fresh.json["balance"], usual.body) == (expected, fresh.body)


async def test_an_account_whose_id_is_a_word_of_the_api_can_be_read(client: Client) -> None:
    """Callers choose ids: an account whose id equals a path segment of the API is an account like any other."""
    await client.fund("bulk", 5)
    answer = await client.get("/v1/accounts/bulk")
    assert (answer.status, answer.json["balance"]) == (200, 5)
    assert (await client.get("/v1/accounts/bulk/entries")).status == 200
    assert (await client.send("PATCH", "/v1/accounts/bulk", {"closed": True})).json["closed"] is True
    refused = await client.send("DELETE", "/v1/accounts/bulk")
    assert (refused.status, refused.headers["Allow"].split(", ")) == (405, ["GET", "PATCH", "POST", "HEAD"])


async def _open_all(client: Client, ids: list[str]) -> None:
    answer = await client.post("/v1/accounts/bulk", {"accounts": [{"id": i, "currency": "EUR"} for i in ids]})
    assert {result["status"] for result in answer.json["results"]} == {201}


async def test_accounts_are_listed_by_id(client: Client) -> None:
    """The list has whole accounts ordered by the characters of their ids, 20 a page by default."""
    ids = ["B", "a:1", "a", "a.1", "Z9", "0", "x", "a-1", "a_1", *(f"n{n:02}" for n in range(20))]
    await _open_all(client, ids)
    first = (await client.get("/v1/accounts")).json
    assert [row["id"] for row in first["data"]] == sorted(ids)[:20]
    assert first["data"][3] == await client.account(sorted(ids)[3])
    rest = (await client.get(f"/v1/accounts?cursor={first['next_cursor']}")).json
    assert ([row["id"] for row in rest["data"]], rest["next_cursor"]) == (sorted(ids)[20:], None)


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
async def test_pages_hold_every_account_once(client: Client, limit: int) -> None:
    """Following the cursors shows every account once, whatever the page size; the last cursor is null."""
    ids = [f"a{n}" for n in range(6)]
    await _open_all(client, ids)
    found = await pages(client, "/v1/accounts", limit)
    assert [row["id"] for page in found for row in page] == ids
    assert [len(page) for page in found] == [min(limit, 6 - start) for start in range(0, 6, limit)]


async def test_a_prefix_chooses(client: Client) -> None:
    """A prefix is compared character by character, special characters included, and works with cursors."""
    await _open_all(client, ["c", "c:1", "c:2", "c:2.x", "c_2", "cx", "C:1", "d"])
    found = await pages(client, "/v1/accounts?prefix=c:", 2)
    assert [[row["id"] for row in page] for page in found] == [["c:1", "c:2"], ["c:2.x"]]
    assert [[row["id"] for row in page] for page in await pages(client, "/v1/accounts?prefix=c_", 5)] == [["c_2"]]
    assert (await client.get("/v1/accounts?prefix=zz")).json == {"data": [], "next_cursor": None}


async def test_a_cursor_stays_valid_while_accounts_are_added(client: Client) -> None:
    """An account opened between two pages is shown if it comes after the cursor; no other is skipped or repeated."""
    await _open_all(client, ["b", "d", "f", "h"])
    first = (await client.get("/v1/accounts?limit=2")).json
    assert [row["id"] for row in first["data"]] == ["b", "d"]
    await _open_all(client, ["a", "c", "e", "g"])
    second = (await client.get(f"/v1/accounts?limit=100&cursor={first['next_cursor']}")).json
    assert [row["id"] for row in second["data"]] == ["e", "f", "g", "h"]


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1&limit=2", "at=1"),
        *("prefix=%C3%A9", "prefix=-", "prefix=" + "a" * 65),
        *("cursor=", "cursor=%00", "cursor=AAAA", "cursor=not-one", f"cursor={'A' * 300}"),
    ],
)
async def test_a_wrong_list_query_is_refused(client: Client, query: str) -> None:
    """A parameter that is out of bounds, unknown or repeated, or a cursor of another list, is a 400."""
    answer = await client.get(f"/v1/accounts?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")
