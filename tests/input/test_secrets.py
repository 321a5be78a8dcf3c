"""Callers' confidential data stays out of logs, of answers and of the database."""

import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.input import broken_http
from tests.input.broken_http import JSON, MARK, TRANSFER
from tests.input.places import BODIES, NUMBERS, OBJECTS, TEXTS
from tests.input.wire import Response, connect, request
from tests.support.client import Client
from tests.support.postgres import administer
from tests.support.service import ServerProcess, Service, in_process, make_key

# Words from inside the service, which no answer may contain.
INSIDE = re.compile(
    rb"Traceback|asyncpg|aiohttp|msgspec|orjson|psycopg|site-packages|\.py\b|SQLSTATE|relation|constraint|"
    rb"violates|tallystick\.|api_keys|transfers_|accounts_|pg_|SELECT|INSERT",
    re.IGNORECASE,
)
FIELDS = (
    *("Accept", "Accept-Language", "Accept-Encoding", "Access-Control-Request-Headers", "Age", "Cookie", "DNT", "ETag"),
    *("Expect", "Forwarded", "From", "If-Modified-Since", "If-None-Match", "If-Range", "Keep-Alive", "Last-Event-ID"),
    *("Origin", "Proxy-Authorization", "Range", "Referer", "TE", "Trailer", "User-Agent", "Via", "X-Api-Key"),
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Http-Method-Override", "X-Secret"),
)


@pytest.fixture
async def loud(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, Path]]:
    """A server process that logs at level debug, and its log."""
    log = tmp_path / "loud.log"
    process = ServerProcess(database_url, log, {"TALLYSTICK_LOG_LEVEL": "debug"})
    await process.start()
    yield process, log
    await process.stop()


def planted(token: str) -> Iterator[bytes]:
    """Return requests with MARK in every part of a request: valid, wrong, and not HTTP."""
    yield from broken_http.malformed(token, MARK).values()
    yield from (entry.data for entry in broken_http.refused(token, MARK).values())
    text = f'"{MARK}"'.encode()
    bodies = [spot.body(value) for spot in (*NUMBERS, *TEXTS) for value in (text, text[1:-1], b"[" + text + b"]")]
    bodies += [place.body(extra=f'"x":"{MARK}"').encode() for place in (*OBJECTS, *BODIES)]
    bodies += [MARK.encode(), text, b"[" + text, b'{"x":' + text + b"}", TRANSFER + MARK.encode()]
    for number, body in enumerate(bodies):
        key = f"Idempotency-Key: k-{number}-{MARK}"
        yield request("POST", "/v1/transfers", JSON, key, body=body, token=token)
        for path in ("/v1/transfers/bulk", "/v1/accounts", "/v1/accounts/bulk"):
            yield request("POST", path, JSON, body=body, token=token)
        yield request("PATCH", "/v1/accounts/alice", JSON, body=body, token=token)
    yield request("POST", "/v1/accounts", JSON, f"Idempotency-Key: {MARK}", body=b"{}", token=token)
    for field in FIELDS:
        for target in ("/livez", f"/v1/accounts/{MARK}", f"/v1/transfers/{MARK}", f"/v1/idempotency-keys/{MARK}"):
            yield request("GET", target, f"{field}: {MARK}", token=token)
    yield request("GET", f"/v1/accounts?prefix={MARK}&cursor={MARK}", token=token)


async def send_all(client: Client, requests: Iterator[bytes]) -> None:
    """Send each request on its own connection; no answer is a failure or shows the inside of the service."""
    for data in requests:
        async with connect(client.url) as wire:
            await wire.send(data)
            response = await wire.receive()
        assert response is not None, data[:200]
        assert response.status < 500, data[:200]
        assert_closed(response)


def assert_closed(response: Response) -> None:
    """Fail if an answer shows the inside of the service or names its software."""
    assert not INSIDE.search(response.raw), response.raw
    assert "server" not in response.headers


async def set_up(client: Client) -> None:
    """Open the accounts in the requests."""
    await client.open("world", floor=None)
    await client.open("alice")


async def test_the_log_of_a_server_holds_no_secret(loud: tuple[ServerProcess, Path], service: Service) -> None:
    """At log level debug, the log shows nothing of what was sent, and no key."""
    process, log = loud
    tokens = {role: await make_key(process.database_url, "secrets", role) for role in ("admin", "write", "read")}
    revoked = await make_key(process.database_url, "secrets")
    await administer(
        process.database_url, "UPDATE tallystick.api_keys SET revoked_at = now() WHERE id = $1", revoked.split("_")[2]
    )
    clients = [Client(service.session, process.url, token) for token in (*tokens.values(), revoked)]
    await set_up(clients[0])
    await send_all(clients[0], planted(tokens["admin"]))
    assert (await clients[2].transfer("world", "alice", 1, description=MARK)).status == 403
    assert (await clients[3].transfer("world", "alice", 1, description=MARK)).status == 401
    await process.stop()
    text = log.read_text()
    assert MARK not in text
    for token in (*tokens.values(), revoked):
        assert secret_of(token) not in text
    assert "stopping" in text


async def test_a_failure_says_nothing_of_the_row_it_failed_on(
    loud: tuple[ServerProcess, Path], service: Service
) -> None:
    """If a PostgreSQL error quotes a row, neither the log nor the answer shows the row's contents."""
    process, log = loud
    client = Client(service.session, process.url, await make_key(process.database_url, "secrets"))
    await set_up(client)
    for table, column in (("transfers", "description"), ("accounts", "metadata")):
        await administer(
            process.database_url,
            f"ALTER TABLE tallystick.{table} ADD CONSTRAINT planted_check"
            f" CHECK ({column}::text NOT LIKE '%{MARK}%') NOT VALID",
        )
    item = {"key": "k", "source": "world", "destination": "alice", "amount": 1, "currency": "EUR", "description": MARK}
    answers = [
        await client.transfer("world", "alice", 1, description=MARK),
        await client.post("/v1/transfers/bulk", {"transfers": [item]}),
        await client.open("bob", metadata={"note": MARK}),
        await client.send("PATCH", "/v1/accounts/alice", {"metadata": {"note": MARK}}),
    ]
    for answer in answers:
        assert (answer.status, answer.code) == (500, "internal_error")
        assert not INSIDE.search(answer.body)
        assert MARK.encode() not in answer.body
        # Operators find the failure by the id that the caller was given.
        assert answer.json["request_id"] in log.read_text()
    text = log.read_text()
    assert "CheckViolationError (23514, planted_check)" in text
    assert MARK not in text


async def test_no_logger_is_told_a_secret(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """In process, the records of all loggers and levels show nothing of what was sent, in their arguments too."""
    assert client.token is not None
    await set_up(client)
    with caplog.at_level(logging.DEBUG):
        await send_all(client, planted(client.token))
    for record in caplog.records:
        if record.name.split(".")[0] in ("server", "asyncio", "aiohttp", "asyncpg"):
            shown = f"{record.getMessage()} {record.args!r}"
            assert MARK not in shown
            assert secret_of(client.token) not in shown


async def test_no_other_answer_repeats_what_was_refused(service: Service, ledger: str) -> None:
    """After all refusals, no list of either ledger contains anything of the refused requests."""
    clients = [await service.client(ledger), await service.client(f"{ledger}-other")]
    for client in clients:
        await set_up(client)
    assert clients[0].token is not None
    await send_all(clients[0], (entry.data for entry in broken_http.refused(clients[0].token, MARK).values()))
    for client in clients:
        for path in ("/v1/accounts", "/v1/transfers", "/v1/accounts/alice/entries", "/readyz", "/problems"):
            answer = await client.get(path)
            assert answer.status == 200
            assert MARK.encode() not in answer.body


async def test_a_copy_of_the_database_opens_nothing(database_url: str) -> None:
    """No column of any table holds a key, its secret, or anything from a refused request."""
    async with in_process(database_url) as service:
        client = await service.client("copied")
        assert client.token is not None
        await set_up(client)
        await send_all(client, (entry.data for entry in broken_http.refused(client.token, MARK).values()))
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'tallystick'")
        assert {"api_keys", "accounts", "transfers"} <= {row[0] for row in tables}
        dump = "\n".join(
            [row[0] for (t,) in tables for row in await connection.fetch(f"SELECT t::text FROM tallystick.{t} AS t")]
        )
    finally:
        await connection.close()
    key_id, secret = client.token.split("_")[2:]
    assert key_id in dump
    assert secret[:16] not in dump
    assert bytes.fromhex(secret).hex() not in dump
    assert MARK not in dump


def secret_of(token: str) -> str:
    """Return the first half of a key's secret, which is too long to appear by chance."""
    return token.split("_")[3][:32]
