"""Makes the checks of `tallystick doctor`; every fault says what to do."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import msgpack
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

from server.events.webhooks.configuration import make_vault
from server.events.webhooks.secrets import UnreadableSecretError
from server.http.runtime import runtime_failures
from server.process.commands.exits import masked, say
from server.process.commands.serve import worker_count
from server.process.commands.tables import marked, say_listing
from server.process.commands.target import Stores
from server.process.embedded.errors import EmbeddedError
from server.process.postgres_connections import connections_max
from server.settings import Settings
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, PrivilegeMissingError, StoreError
from server.store.keyspace import LEASE_MS, PROBE
from server.store.migrations import expected_schema
from server.store.postgres import Database
from server.store.readiness import check_database, explain_refusal
from server.store.redis import invalidate_command
from server.store.redis_cluster import split_address
from server.store.reports import REPORTS_MAX
from server.store.scripts import script, with_text
from server.store.sessions import SERVICE_ROLE

# Seconds that one server of Redis has to answer, and that all servers of a cluster have together.
REDIS_TIMEOUT_SECONDS = 2.0
REDIS_DEADLINE_SECONDS = 10.0
# With fewer file descriptors than this, the kernel refuses connections in a flood before the service can.
DESCRIPTORS_MIN = 4_096
# Most webhook endpoints whose secrets are tried, those of the newest ledgers first. This takes a few milliseconds.
SECRETS_MAX = 1_000


class Finding(NamedTuple):
    """One subject and its faults, if it has any."""

    subject: str
    faults: tuple[str, ...]


def say_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """
    Print findings, with possible secrets masked.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if as_json:
        rows = ({"subject": subject, "faults": [masked(fault) for fault in faults]} for subject, faults in findings)
        say_listing((), rows, as_json=True)
        return
    for finding in findings:
        say(f"{marked('FAULT' if finding.faults else 'ok')}{'' if finding.faults else '   '} {finding.subject}")
        for fault in finding.faults:
            say(f"      - {masked(fault)}")


async def examine(settings: Settings, stores: Stores) -> list[Finding]:
    """Check the program, the machine, Postgres, Redis and webhooks."""
    return [
        Finding("program", tuple(runtime_failures())),
        Finding("machine", tuple(_machine_faults())),
        Finding("Postgres", tuple(await _postgres_faults(settings, stores))),
        Finding("Redis", tuple(await _redis_faults(stores))),
        Finding("webhooks", tuple(await _webhook_faults(settings))),
    ]


def _machine_faults() -> list[str]:
    limit = os.sysconf("SC_OPEN_MAX")
    if limit < DESCRIPTORS_MIN:
        return [f"only {limit} file descriptors: raise the limit (ulimit -n) to {DESCRIPTORS_MIN} or more"]
    return []


async def _postgres_faults(settings: Settings, stores: Stores) -> list[str]:
    if isinstance(stores.postgres, EmbeddedError):
        return [str(stores.postgres)]
    try:
        async with Database(
            stores.postgres,
            posting_connections=settings.posting_connections,
            reading_connections=settings.reading_connections,
        ) as database:
            return [
                *await check_database(database, expected_schema()),
                *await _connection_faults(settings, database),
                *await _run_faults(database),
            ]
    except (StoreError, QueueFullError) as error:
        return [f"cannot be reached ({error}): check TALLYSTICK_DATABASE_URL, and that the server runs"]
    except DatabaseError as error:
        return [explain_refusal(error)]


async def _connection_faults(settings: Settings, database: Database) -> list[str]:
    """Return a fault if this server may need more connections than PostgreSQL has."""
    workers = worker_count(settings.workers)
    wanted = connections_max(
        settings.posting_connections, settings.reading_connections, workers, background=settings.background
    )
    wanted += (workers + 1) * REPORTS_MAX
    room = (await database.read("connection_room"))[0]["room"]
    # With the embedded PostgreSQL, pools are made small enough for its connections.
    if settings.database_url is None or wanted <= room:
        return []
    what_to_do = "raise max_connections, or lower workers, posting_connections or reading_connections"
    return [f"it allows {room} connections, but this server may need {wanted}: {what_to_do}"]


async def _run_faults(database: Database) -> list[str]:
    """Return a fault if the service could not notice that a backup was restored."""
    try:
        await database.read("identity_read")
    except PrivilegeMissingError as error:
        what = "so a restored backup could not be noticed, and nothing is kept in Redis"
        what_to_do = f"grant {SERVICE_ROLE} EXECUTE on that function"
        return [f"cannot tell one run of the server from the next ({error.text}), {what}: {what_to_do}"]
    return []


async def _webhook_faults(settings: Settings) -> list[str]:
    """Return a fault if secrets of webhook endpoints cannot be read, so that nothing is sent to them."""
    # With embedded servers the key is in the data directory, so the secrets can be read.
    if settings.database_url is None:
        return []
    try:
        async with Database(settings.database_url, posting_connections=1, reading_connections=1) as database:
            secrets = [row["secrets"] for row in await database.read("webhook_secret_list", SECRETS_MAX)]
    except (StoreError, QueueFullError, DatabaseError):
        # The check of Postgres reports this fault.
        return []
    vault = make_vault(settings)
    if vault is None:
        what = "are endpoints but no key to decrypt their secrets, so nothing is sent"
        return [f"there {what}: set TALLYSTICK_WEBHOOK_KEY to the key that encrypted them"] if secrets else []
    unreadable = 0
    for of_endpoint in secrets:
        try:
            vault.open(of_endpoint)
        except UnreadableSecretError:
            unreadable += 1
    endpoints = "1 endpoint" if unreadable == 1 else f"{unreadable} endpoints"
    what_to_do = "add the key that encrypted them to TALLYSTICK_WEBHOOK_KEY, after the current one and a comma"
    return [f"the secrets of {endpoints} cannot be decrypted: {what_to_do}"] if unreadable else []


def memory_faults(facts: Mapping[str, object]) -> list[str]:
    """
    Return a fault if this Redis, with its memory full, would forget limits or refuse writes.

    Args:
        facts: The answer to `INFO memory`, because `CONFIG` is often forbidden.
    """
    policy = str(facts.get("maxmemory_policy", ""))
    if not facts.get("maxmemory"):
        return []
    if policy.startswith("allkeys-"):
        what = "evicts limits too when it is full, so a key whose limit is evicted has its whole burst again"
    elif policy == "noeviction":
        what = "refuses writes when it is full: each worker then limits on its own, and nothing more is cached"
    else:
        return []
    return [f"{what} (maxmemory-policy {policy}): set maxmemory-policy volatile-lru"]


async def _redis_faults(stores: Stores) -> list[str]:
    if isinstance(stores.redis, EmbeddedError):
        return [str(stores.redis)]
    client = _redis_client(stores.redis)
    try:
        async with asyncio.timeout(REDIS_DEADLINE_SECONDS):
            memories = await _memories(client)
            refusals = await _refusals(client)
    except RedisClusterException:
        return ["cannot be reached as a cluster: check TALLYSTICK_REDIS_URL, and that a server of the cluster runs"]
    except (RedisError, OSError) as error:
        return [f"cannot be reached ({type(error).__name__}): check TALLYSTICK_REDIS_URL, and that the server runs"]
    finally:
        await client.aclose()
    return [*dict.fromkeys(fault for facts in memories for fault in memory_faults(facts)), *refusals]


async def _refusals(client: "RedisCluster | Redis") -> list[str]:
    """
    Return a fault if Redis refuses what the service sends; nothing is changed but the key of a probe.

    Raises:
        RedisError, OSError, TimeoutError: A server does not answer.
    """
    gate = script("gate").call([PROBE], "", LEASE_MS, msgpack.encode([1, 1, 1, 1]))
    replay = invalidate_command({}, {PROBE: b""}, b"", replay_seconds=1)
    try:
        facts = await client.info("server")
        # Redis and Valkey name this fact differently.
        modes = (facts.get("redis_mode"), facts.get("server_mode"))
        if "cluster" in modes and not isinstance(client, RedisCluster):
            return ["is a server of a cluster: add ?cluster=true to TALLYSTICK_REDIS_URL"]
        for command in (gate, replay):
            await client.execute_command(*with_text(command))
    except ResponseError as error:
        what_to_do = "it must be a primary with memory left, and its user needs all keys, EVAL, EVALSHA and INFO"
        return [f"refuses what the service sends ({error}): {what_to_do}"]
    return []


async def _memories(client: "RedisCluster | Redis") -> list[Mapping[str, object]]:
    """
    Return `INFO memory` of each server, after all have answered; an empty list if the user may not read it.

    Raises:
        RedisError, OSError, TimeoutError: A server does not answer.
    """
    # Ask every server of a cluster that the first one knows.
    everywhere = {"target_nodes": RedisCluster.ALL_NODES} if isinstance(client, RedisCluster) else {}
    await client.ping(**everywhere)
    try:
        facts = await client.info("memory", **everywhere)
    except NoPermissionError:
        return []
    return list(facts.values()) if everywhere else [facts]


def _redis_client(url: str) -> "RedisCluster | Redis":
    """Return a client for an address whose options have been checked."""
    plain, of_cluster = split_address(url)
    options: dict[str, Any] = {
        "socket_timeout": REDIS_TIMEOUT_SECONDS,
        "socket_connect_timeout": REDIS_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    return RedisCluster.from_url(plain, **options) if of_cluster else Redis.from_url(plain, **options)
