"""An address that leads to a connection pooler is refused: sessions would not have their settings."""

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.command import NO_REDIS, call
from tests.support.postgres import administer
from tests.support.proxy import Proxy, proxied
from tests.support.service import in_process

REASON = (
    "the address of Postgres is refused: it leads to a connection pooler that drops the settings of sessions. "
    "Give PostgreSQL's own address: each worker pools its connections itself"
)
# The parameters of a start-up message that a pooler passes on.
PASSED_ON = (b"user", b"database")


class Dropping(Proxy):
    """Drops the settings in a start-up message, as PgBouncer does with `ignore_startup_parameters`."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self._started: set[object] = set()

    async def passed(self, data: bytes, client: object, is_reply: bool) -> Sequence[bytes | None]:
        if is_reply or client in self._started:
            return await super().passed(data, client, is_reply)
        self._started.add(client)
        words = data[8:].split(b"\0")
        kept = [(name, value) for name, value in zip(words[::2], words[1::2], strict=False) if name in PASSED_ON]
        message = data[4:8] + b"".join(name + b"\0" + value + b"\0" for name, value in kept) + b"\0"
        return [struct.pack("!I", len(message) + 4) + message]


class Refusing(Proxy):
    """Refuses a start-up message with settings, as PgBouncer does by default."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(self.CHUNK_BYTES)
        fields = b"SFATAL\0C08P01\0Munsupported startup parameter: lock_timeout\0\0"
        writer.write(b"E" + struct.pack("!I", len(fields) + 4) + fields)
        writer.close()


@pytest.mark.parametrize("kind", [Dropping, Refusing])
async def test_every_command_says_so(kind: type[Proxy], database_url: str, tmp_path: Path) -> None:
    """All commands and /readyz give the same reason and remedy."""
    # A default of the database is no setting of the session.
    await administer(database_url, f"ALTER DATABASE {urlsplit(database_url).path[1:]} SET lock_timeout = '5s'")
    async with proxied(database_url, tmp_path, kind) as (_, url):
        for words in (["migrate"], ["audit"], ["keys", "list"], ["keys", "create", "--ledger", "a", "--role", "read"]):
            end = await call(*words, database_url=url)
            assert (end.code, end.out, end.err) == (2, "", f"tallystick: {REASON}\n")
        end = await call("doctor", database_url=url, redis_url=NO_REDIS)
        assert (end.code, f"FAULT Postgres\n      - {REASON}\n" in end.out) == (1, True), end
        async with in_process(url) as service, service.session.get(f"{service.url}/readyz") as answer:
            assert (answer.status, (await answer.json())["failures"]) == (503, [REASON])
