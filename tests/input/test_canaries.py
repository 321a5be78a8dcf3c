"""However a request fails, callers' data and settings stay out of logs, metrics, admin pages and traces."""

import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from server.gate.key_store import KeyLimit
from server.store.migrations import migrate
from server.store.sql import queries
from tests.input.broken_http import malformed, refused
from tests.input.wire import connect
from tests.support.client import Answer, Client
from tests.support.own_postgres import OwnPostgres
from tests.support.postgres import administer
from tests.support.service import ServerProcess, make_key
from tests.support.valkey import OwnValkey
from tests.support.waiting import until
from tests.telemetry.collector import Collector, collecting

# One example of each confidential value of a caller or an operator.
ACCOUNT = "canary-account"
SECRETS = {
    name: f"canary-{name}"
    for name in ("key", "description", "metadata", "reference", "header", "query", "body", "path", "mark", "method")
}
PASSWORDS = ("canary-of-postgres", "canary-of-redis")
# One request a day.
LITTLE = KeyLimit(1, 86_400, 1, 5)


class Watched(NamedTuple):
    """A server with its most verbose log, its two stores, and the collector of its traces."""

    server: ServerProcess
    postgres: OwnPostgres
    redis: OwnValkey
    collector: Collector


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, for the socket."""
    with tempfile.TemporaryDirectory(prefix="ts-") as path:
        yield Path(path)


@pytest.fixture
async def watched(folder: Path, own_postgres: OwnPostgres, tmp_path: Path) -> AsyncIterator[Watched]:
    """A server that logs, samples and traces every request as slow, and whose first batch of transfers fails."""
    postgres = own_postgres
    redis = OwnValkey(folder, requirepass=PASSWORDS[1])
    redis.start()
    await migrate(postgres.database_url)
    await administer(postgres.database_url, f"CREATE ROLE watched SUPERUSER LOGIN PASSWORD '{PASSWORDS[0]}'")
    url = postgres.database_url.replace("postgres@", f"watched:{PASSWORDS[0]}@", 1)
    assert urlsplit(url).password == PASSWORDS[0]
    async with collecting() as collector:
        settings = {
            "TALLYSTICK_LOG_LEVEL": "debug",
            "TALLYSTICK_SLOW_MS": "1",
            "TALLYSTICK_LOG_SAMPLE": "1",
            "TALLYSTICK_FAILPOINTS": "posting.before_batch=raise",
            "TALLYSTICK_OTEL_ENDPOINT": collector.url,
            "TALLYSTICK_OTEL_SAMPLE": "1",
        }
        redis_url = f"redis://:{PASSWORDS[1]}@127.0.0.1:{redis.port}"
        server = ServerProcess(url, tmp_path / "server.log", settings, redis_url)
        try:
            await server.start()
            yield Watched(server, postgres, redis, collector)
        finally:
            await server.stop()
            redis.stop()


async def fail_in_every_way(clients: dict[str, Client]) -> list[Answer]:
    """Send requests for every status that occurs while both stores work."""
    admin = clients["admin"]
    fields = {"description": SECRETS["description"], "reference": SECRETS["reference"]}
    labels: dict[str, Any] = {"metadata": {SECRETS["metadata"]: SECRETS["metadata"]}}
    headers = {"X-Secret": SECRETS["header"], "Cookie": SECRETS["header"], "User-Agent": SECRETS["header"]}
    answers = [
        await admin.open("world", floor=None),
        await admin.open(ACCOUNT, **labels),
        await admin.open(ACCOUNT, "USD"),
        # The first attempt fails and leaves its key free.
        await admin.transfer("world", ACCOUNT, 1, SECRETS["key"], **fields, **labels),
        await admin.transfer("world", ACCOUNT, 1, SECRETS["key"], **fields, **labels),
        await admin.transfer("world", ACCOUNT, 1, SECRETS["key"], **fields, **labels),
        await admin.transfer("world", ACCOUNT, 2, SECRETS["key"], **fields, **labels),
        await admin.transfer(ACCOUNT, "world", 99, **fields, **labels),
        await admin.transfer(ACCOUNT, SECRETS["path"], 1),
        await admin.send("POST", "/v1/transfers", raw=SECRETS["body"].encode(), headers={"Idempotency-Key": "raw"}),
        await admin.send("PATCH", f"/v1/accounts/{ACCOUNT}", {**labels, "floor": SECRETS["body"]}, headers=headers),
        await admin.send(SECRETS["method"].upper(), f"/v1/accounts/{ACCOUNT}", headers=headers),
        await admin.send("GET", f"/v1/accounts/{ACCOUNT}", headers=headers),
        await admin.get(f"/v1/accounts/{ACCOUNT}/entries?limit={SECRETS['query']}"),
        await admin.get(f"/v1/accounts?prefix={ACCOUNT}&cursor={SECRETS['query']}"),
        await admin.get(f"/v1/transfers?reference={SECRETS['reference']}"),
        await admin.get(f"/v1/idempotency-keys/{SECRETS['key']}"),
        await admin.get(f"/{SECRETS['path']}/{ACCOUNT}?{SECRETS['query']}"),
        await clients["read"].transfer("world", ACCOUNT, 1, **fields),
        await clients["revoked"].get(f"/v1/accounts/{ACCOUNT}"),
        await clients["made up"].get(f"/v1/accounts/{ACCOUNT}"),
    ]
    answers += [await clients["little"].get(f"/v1/accounts/{ACCOUNT}") for _ in range(2)]
    return answers


async def shown(watched: Watched) -> dict[str, str]:
    """Return every page of the admin port, and the log."""
    pages = {"log": watched.server.log_text()}
    async with aiohttp.ClientSession() as session:
        for path in ("/metrics", "/livez", "/readyz", "/hot-accounts", f"/{SECRETS['path']}"):
            async with session.get(f"{watched.server.admin_url}{path}") as response:
                pages[path] = f"{response.headers} {await response.text()}"
    return pages


def assert_silent(pages: dict[str, str], secrets: list[str]) -> None:
    """Fail if a page shows a secret; accounts may be named only in /hot-accounts."""
    for page, text in pages.items():
        assert [secret for secret in secrets if secret.lower() in text.lower()] == [], page
        assert page == "/hot-accounts" or ACCOUNT not in text, page


async def test_no_canary_is_shown(watched: Watched) -> None:
    """After every status, and after both stores were killed, no log line, metric, page or trace shows a secret."""
    server, postgres, redis, collector = watched
    tokens = {role: await make_key(postgres.database_url, "canaries", role) for role in ("admin", "read")}
    tokens["revoked"] = await make_key(postgres.database_url, "canaries")
    tokens["little"] = await make_key(postgres.database_url, "canaries", "read", LITTLE)
    tokens["made up"] = "tally_live_canary_" + "a" * 64
    revoke = "UPDATE tallystick.api_keys SET revoked_at = now() WHERE id = $1"
    await administer(postgres.database_url, revoke, tokens["revoked"].split("_")[2])
    secrets = [*SECRETS.values(), *PASSWORDS, *(token.split("_", 3)[3] for token in tokens.values())]
    async with aiohttp.ClientSession() as session:
        clients = {name: Client(session, server.url, token) for name, token in tokens.items()}
        statuses = Counter(answer.status for answer in await fail_in_every_way(clients))
        assert statuses.keys() >= {200, 201, 400, 401, 403, 404, 409, 422, 429, 500}, statuses
        wrong = [*malformed(tokens["admin"], SECRETS["mark"]).values()]
        wrong += [entry.data for entry in refused(tokens["admin"], SECRETS["mark"]).values()]
        for data in wrong:
            async with connect(server.url) as wire:
                await wire.send(data)
                await wire.receive()
        redis.stop()
        assert (await clients["admin"].get(f"/v1/accounts/{ACCOUNT}")).status == 200
        await postgres.crash()
        for _ in range(3):
            answer = await clients["admin"].transfer("world", ACCOUNT, 1, description=SECRETS["description"])
            assert answer.status == 503
        assert (await clients["admin"].get(f"/v1/accounts/{ACCOUNT}")).status == 503
        assert_silent(await shown(watched), secrets)
        redis.start()
        postgres.start()

        async def posts() -> bool:
            return (await clients["admin"].transfer("world", ACCOUNT, 1)).status == 201

        await until(posts)
    await server.stop()
    assert_silent({"log": server.log_text()}, secrets)
    lines = [orjson.loads(line) for line in server.log_text().splitlines()]
    assert_one_line_each(lines)
    assert {line["statement"] for line in lines if line["event"] == "slow statement"} <= queries().keys()
    assert collector.spans
    traced = b"".join(collector.bodies).decode(errors="replace")
    assert_silent({"traces": traced}, secrets)


def assert_one_line_each(lines: list[dict[str, str]]) -> None:
    """Fail if a request has two lines, or a line has an unknown field."""
    told = [line for line in lines if line["event"] == "request"]
    assert told
    assert max(Counter(line["request_id"] for line in told).values()) == 1
    known = {
        *("event", "level", "logger", "at", "pid", "worker", "unsaid"),
        *("request_id", "trace_id", "key_id", "method", "route", "status"),
        *("total_ms", "gate_ms", "lane_ms", "database_ms"),
    }
    assert {name for line in told for name in line} <= known
    # A caller's own id is logged only if it is well-formed.
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", line["request_id"]) for line in told)
