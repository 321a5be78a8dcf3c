"""A service for a few tests, whose Redis they may freeze, and its requests as bytes for a connection."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from server.app import App
from server.http.admission import Admission
from server.http.wire.server import HttpServer
from server.store.postgres import ACQUIRE_TIMEOUT_SECONDS
from tests.input.wire import Response, Wire, request
from tests.support.client import Client
from tests.support.postgres import create_database, drop_database
from tests.support.service import Service, in_process
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

JSON = "Content-Type: application/json"
BODY = b'{"source":"world","destination":"alice","amount":1,"currency":"EUR"}'
# A transfer between other accounts, whose rows are not locked.
OTHER_BODY = BODY.replace(b"alice", b"bob").replace(b"world", b"other-world")
CHUNKED = "Transfer-Encoding: chunked"
# Longer than a test freezes Redis, so that the service does not give up on it.
REDIS_PATIENCE_MS = 10_000


class Hot(NamedTuple):
    """A service, with the accounts `world` and `other-world` (no floor), `alice` and `bob` in the client's ledger."""

    service: Service
    client: Client
    valkey: OwnValkey

    @property
    def url(self) -> str:
        """The address of the service."""
        return self.service.url

    @property
    def server(self) -> HttpServer:
        """The HTTP server of the service."""
        return self.app.server

    @property
    def app(self) -> App:
        """The parts of the service."""
        assert self.service.app is not None
        return self.service.app

    @property
    def admission(self) -> Admission:
        """The counts of running and waiting requests."""
        return self.server.pipeline.admission

    def get(self, account: str = "alice", *lines: str, token: str | None = None) -> bytes:
        """Return the bytes of a read of an account, with the client's token unless another is given."""
        return request("GET", f"/v1/accounts/{account}", *lines, token=token or self.client.token)

    def post(self, key: str, *lines: str, body: bytes | None = BODY, token: str | None = None) -> bytes:
        """Return the bytes of a transfer; without *body* only the head, without a length."""
        fields = (JSON, f"Idempotency-Key: {key}", *lines)
        return request("POST", "/v1/transfers", *fields, body=body, token=token or self.client.token)

    async def bound(self, key: str) -> bool:
        """Return whether a transfer was made under a key."""
        return (await self.client.get(f"/v1/idempotency-keys/{key}")).status == 200

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return the numbers of running reads, running writes, waiting reads, waiting writes and arriving bytes."""
        reads, writes = self.admission._waiting
        return self.admission.reads, self.admission.writes, len(reads), len(writes), self.admission.arriving_bytes

    async def counted(self, *counts: int) -> None:
        """Wait until `counts` begins with *counts* and all further counts are zero."""
        wanted = (*counts, *[0] * (5 - len(counts)))
        try:
            await until(lambda: self.counts() == wanted)
        except TimeoutError:
            raise AssertionError(f"{self.counts()} is not {wanted}") from None

    async def quiet(self) -> None:
        """Wait until no request is running, of any key."""
        await self.counted()
        await until(lambda: len(self.server.pipeline.running) == 0)

    @contextmanager
    def redis_held(self) -> Iterator[None]:
        """Keep every request at the gate until the block ends or `resume` is called."""
        with self.valkey.frozen():
            yield

    @asynccontextmanager
    async def postings_held(self) -> AsyncIterator[None]:
        """Keep connections from all postings until the block ends, which must be sooner than they give up waiting."""
        assert self.service.app is not None
        pool = self.service.app.database.posting_pool
        connections = [await pool.acquire(ACQUIRE_TIMEOUT_SECONDS) for _ in range(pool.size_max)]
        try:
            yield
        finally:
            for connection in connections:
                await pool.release(connection, failed=False)

    def resume(self) -> None:
        """Let Redis answer again."""
        os.kill(self.valkey.pid, signal.SIGCONT)


@asynccontextmanager
async def hot_service(template: str) -> AsyncIterator[Hot]:
    """Start a service that trusts its Redis at once, so that it reads snapshots."""
    database_url = await create_database(template)
    with tempfile.TemporaryDirectory(prefix="ts-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.store.redis_connections.QUARANTINE_SECONDS", 0.0)
        valkey = OwnValkey(Path(folder))
        valkey.start()
        try:
            async with in_process(database_url, valkey.url, redis_timeout_ms=REDIS_PATIENCE_MS) as service:
                client = await service.client("hot")
                for name in ("world", "other-world"):
                    assert (await client.open(name, floor=None)).status == 201
                for name in ("alice", "bob"):
                    assert (await client.open(name)).status == 201
                await service.reads_snapshots()
                yield Hot(service, client, valkey)
        finally:
            valkey.stop()
    await drop_database(template, database_url)


async def answered(wire: Wire) -> Response:
    """Return the next answer, which must come."""
    response = await wire.receive()
    assert response is not None, "the connection ended instead"
    return response


async def send_in_pieces(wire: Wire, data: bytes, cuts: list[int]) -> None:
    """Send *data* in packets that end at *cuts*, and let the server read each by itself."""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        await wire.send(data[start:end])
        for _ in range(3):
            await asyncio.sleep(0)


def chunks(body: bytes, size: int) -> bytes:
    """Return *body* in chunks of *size* bytes."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def plain(response: Response) -> tuple[int, dict[str, str], bytes]:
    """Return an answer without what differs each time: its date, its request's id, what remains of a limit."""
    own = ("date", "x-request-id", "ratelimit", "connection", "retry-after", "content-length")
    headers = {name: value for name, value in response.headers.items() if name not in own}
    return response.status, headers, response.body.replace(response.headers["x-request-id"].encode(), b"<id>")
