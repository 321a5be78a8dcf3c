"""If `keys create` loses its connection, the key that it prints is valid, and no other key is."""

import re
from pathlib import Path

import pytest

from server.gate.tokens import read_key_name
from tests.support.command import call
from tests.support.postgres import administer
from tests.support.proxy import proxied

CREATE = ("keys", "create", "--ledger", "books", "--role", "write", "--rate", "7/min", "--burst", "424242")
# As binary, the form in which it is sent: only the statement that makes the key contains it.
BURST = (424_242).to_bytes(4, "big")
# The statement that revokes a key contains this too.
ROLE = b"write"
ALWAYS = 1_000_000


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short deadline, after which the command gives up, but which leaves time for several attempts."""
    monkeypatch.setattr("server.store.postgres.READ_DEADLINE_SECONDS", 1.5)


async def keys(url: str) -> dict[str, bool]:
    """Return the keys, and for each whether it is valid."""
    rows = await administer(url, "SELECT id, revoked_at IS NULL AS lives FROM tallystick.api_keys")
    return {row["id"]: row["lives"] for row in rows}


async def test_a_reply_that_is_lost(database_url: str, sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If the reply to making the key is lost, the command sends the same key again, which changes nothing, and prints it:
    even the last key that the ledger may have.
    """
    monkeypatch.setattr("server.gate.key_store.KEYS_OF_LEDGER_MAX", 1)
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left = BURST, 1
        end = await call(*CREATE, database_url=through)
    assert proxy.cut == 1
    assert (end.code, end.err) == (0, "")
    assert await keys(database_url) == {read_key_name(end.out)[1]: True}
    full = "tallystick: the ledger has as many API keys as it may, 1: revoke those that are no longer needed\n"
    assert await call(*CREATE, database_url=database_url) == (2, "", full)


@pytest.mark.usefixtures("impatient")
async def test_every_reply_is_lost(database_url: str, sockets: Path) -> None:
    """If no reply ever comes, the key is revoked, and the command says so."""
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left = BURST, ALWAYS
        end = await call(*CREATE, database_url=through)
    assert proxy.cut > 1
    text = "tallystick: Postgres was lost while it made the key, which is revoked in any case: try again\n"
    assert (end.code, end.out, end.err) == (2, "", text)
    assert list((await keys(database_url)).values()) == [False]


@pytest.mark.usefixtures("impatient")
async def test_nothing_is_heard_any_more(database_url: str, sockets: Path) -> None:
    """If the key cannot be revoked either, the message names the key and the command that revokes it."""
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left = ROLE, ALWAYS
        end = await call(*CREATE, database_url=through)
    assert (end.code, end.out) == (2, "")
    hint = re.search(r"nobody knows whether it did: when it is back, run `tallystick (.*)`\n", end.err)
    assert hint is not None, end
    assert (await call(*hint[1].split(), database_url=database_url)).code == 0
    assert list((await keys(database_url)).values()) == [False]


async def test_postgres_goes_away_for_good(database_url: str, sockets: Path) -> None:
    """
    If the connection is lost while the key is made and Postgres stays away, the message says that the key may exist.
    """
    async with proxied(database_url, sockets) as (proxy, through):
        proxy.cut_at, proxy.cuts_left, proxy.refuse_after_cut = BURST, 1, True
        end = await call(*CREATE, database_url=through)
    assert (end.code, end.out) == (2, "")
    assert "nobody knows whether it did" in end.err
    assert list((await keys(database_url)).values()) == [True]
