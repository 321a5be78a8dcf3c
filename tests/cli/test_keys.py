"""`tallystick keys` against a server, and when it uses the database instead."""

import re

import pytest

from tests.cli.conftest import Shell
from tests.support.client import Client
from tests.support.command import NO_REDIS, call
from tests.support.service import Service

TOKEN = re.compile(r"tsk_[0-9a-f]{1,16}_(?P<id>[0-9a-f]{16})_[0-9a-f]{72}\n")


async def made(shell: Shell, *words: str) -> tuple[str, str]:
    """Create a key and return its token and public id, after checking that only the token was printed."""
    match = TOKEN.fullmatch(await shell.done("keys", "create", *words))
    assert match is not None
    return match[0].strip(), match["id"]


async def status(service: Service, token: str) -> int:
    """Return the status of a request with a key."""
    return (await Client(service.session, service.url, token).get("/v1/accounts")).status


async def test_keys_of_a_server(shell: Shell, service: Service) -> None:
    """An administrator creates, lists, changes, rotates and revokes keys without the database."""
    words = ("--role", "read", "--rate", "5/min", "--burst", "9", "--description", "for Köln", "--accounts", "a:,b:")
    token, key_id = await made(shell, *words, "--expires", "2999-01-01")
    assert await status(service, token) == 200
    [row, _] = await shell.json("keys", "list")
    assert (row["id"], row["rate"], row["burst"], row["accounts"]) == (key_id, "5/min", 9, ["a:", "b:"])
    lines = (await shell.done("keys", "list")).splitlines()
    assert lines[0].split("  ")[0] == "ID"
    assert re.search(rf"^{key_id}  read .* expires 2999-01-01T00:00:00Z  for Köln$", lines[1])
    # A whole token names its key too, and only its id is sent.
    for name in (key_id, token):
        changed = await shell.json("keys", "limit", name, "--rate", "default", "--expires", "default", "--burst", "8")
        assert (changed["rate"], changed["burst"], changed["expires_at"]) == (None, 8, None)
    rotated = await shell.done("keys", "rotate", key_id, "--overlap", "0")
    assert await status(service, rotated.strip()) == 200
    assert await shell.done("keys", "revoke", key_id) == ""
    [row, _] = await shell.json("keys", "list")
    assert row["revoked_at"] is not None
    end = await shell.run("keys", "rotate", key_id)
    assert (end.code, end.out) == (3, "")


REFUSED = [
    pytest.param(("create", "--role", "read", "--rate", "fast"), 2, "invalid_request (400)", id="a rate"),
    pytest.param(("create", "--role", "read", "--burst", "x"), 2, "the burst must be a number", id="a burst"),
    pytest.param(("create", "--role", "read", "--expires", "soon"), 2, "name an instant as", id="an instant"),
    pytest.param(("create", "--role", "read", "--expires", "2020-01-01"), 2, "invalid_request (400)", id="the past"),
    pytest.param(("limit", "0" * 16), 2, "name what to change", id="nothing named"),
    pytest.param(("limit", "0" * 16, "--rate", "5/s"), 3, "api_key_not_found (404)", id="no key"),
    pytest.param(("revoke", "nothing"), 2, "that is neither the public id of a key", id="no name of a key"),
    pytest.param(("rotate", "0" * 16, "--overlap", "long"), 2, "the overlap must be a number", id="no seconds"),
]


@pytest.mark.parametrize(("words", "code", "sentence"), REFUSED)
async def test_refused(shell: Shell, words: tuple[str, ...], code: int, sentence: str) -> None:
    """A refusal is shown with the server's code or a reason, and no key is created."""
    end = await shell.run("keys", *words)
    assert (end.code, end.out) == (code, "")
    assert end.err.startswith(f"tallystick: {sentence}"), end
    assert len(await shell.json("keys", "list")) == 1


async def test_server_or_database(shell: Shell, database_url: str) -> None:
    """`--ledger` and `--data-dir` select the database, whatever the environment says; with `--url` they are refused."""
    at = {"database_url": database_url, "redis_url": NO_REDIS}
    named = await shell.run("keys", "create", "--ledger", "elsewhere", "--role", "read", **at)
    assert (named.code, named.err) == (0, "")
    [row] = (await call("keys", "list", **at)).out.splitlines()[1:]
    assert row.split()[:3] == ["elsewhere", named.out.split("_")[2], "read"]
    assert len(await shell.json("keys", "list")) == 1
    end = await shell.run("keys", "list", "--ledger", "elsewhere", "--url", shell.url, **at)
    sentence = "--url names a server, --ledger and --data-dir name a database: do not give both"
    assert end == (2, "", f"tallystick: {sentence}\n")
    end = await call("keys", "create", "--role", "read", **at)
    assert end == (
        2,
        "",
        "tallystick: name the ledger with --ledger; to ask a server instead, set TALLYSTICK_API_KEY\n",
    )
    end = await call("keys", "list", "--url", shell.url, **at)
    assert (end.code, end.err.startswith("tallystick: no API key: set")) == (2, True)


async def test_only_administrators(service: Service, ledger: str) -> None:
    """A key below the role admin cannot list keys."""
    writer = Shell(service.url, str((await service.client(ledger, "write")).token))
    end = await writer.run("keys", "list")
    assert (end.code, end.err.split()[1]) == (2, "forbidden")
