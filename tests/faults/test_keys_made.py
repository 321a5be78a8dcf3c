"""`keys create` while the connection is lost: the key that is printed is the one that lives, and no other does."""

import re
from pathlib import Path

import pytest

from server.gate.tokens import read_key_name
from tests.support.command import call
from tests.support.postgres import administer
from tests.support.proxy import proxied

CREATE = ("keys", "create", "--ledger", "books", "--role", "write", "--rate", "7/min", "--burst", "424242")
# Binary, as it is sent: only the statement that makes the key contains it.
BURST = (424_242).to_bytes(4, "big")
# The statement that withdraws a key contains this too.
ROLE = b"write"
ALWAYS = 1_000_000


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gives up sooner than usual, after several attempts."""
    monkeypatch.setattr("server.store.postgres.READ_DEADLINE_SECONDS", 1.5)


async def keys(url: str) -> dict[str, bool]:
    """Return which keys there are, and which of them live."""
    rows = await administer(url, "SELECT id, revoked_at IS NULL AS lives FROM tallystick.api_keys")
    return {row["id"]: row["lives"] for row in rows}


async def test_a_reply_that_is_lost(database_url: str, sockets: Path) -> None:
    """The key was made and the reply lost: the same key is sent again, changes nothing, and is printed."""
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left = BURST, 1
        end = await call(*CREATE, database_url=through)
    assert proxy.cut == 1
    assert (end.code, end.err) == (0, "")
    assert await keys(database_url) == {read_key_name(end.out)[1]: True}


@pytest.mark.usefixtures("impatient")
async def test_every_reply_is_lost(database_url: str, sockets: Path) -> None:
    """When no reply ever comes, the key is revoked, and the command says that."""
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left = BURST, ALWAYS
        end = await call(*CREATE, database_url=through)
    assert proxy.cut > 1
    text = "tallystick: Postgres was lost while it made the key, which is revoked in any case: try again\n"
    assert (end.code, end.out, end.err) == (2, "", text)
    assert list((await keys(database_url)).values()) == [False]


@pytest.mark.usefixtures("impatient")
async def test_nothing_is_heard_any_more(database_url: str, sockets: Path) -> None:
    """When it cannot be revoked either, the message names the key and how to revoke it."""
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left = ROLE, ALWAYS
        end = await call(*CREATE, database_url=through)
    assert (end.code, end.out) == (2, "")
    hint = re.search(r"nobody knows whether it did: when it is back, run `tallystick (.*)`\n", end.err)
    assert hint is not None, end
    assert (await call(*hint[1].split(), database_url=database_url)).code == 0
    assert list((await keys(database_url)).values()) == [False]


async def test_postgres_goes_away_for_good(database_url: str, sockets: Path) -> None:
    """Lost under the making of the key and not reachable since: it may have been made, and the message says so."""
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left, proxy.refuse_after_cut = BURST, 1, True
        end = await call(*CREATE, database_url=through)
    assert (end.code, end.out) == (2, "")
    assert "nobody knows whether it did" in end.err
    assert list((await keys(database_url)).values()) == [True]
