"""Opens connections: to the one of several hosts that takes writes, and never without the session's settings."""

import asyncio
import re
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from server.store.sql import query

# Attributes that only one of the hosts can have, so the order in which they are asked does not matter.
SINGLE_ATTRIBUTES: Final = ("read-write", "primary")
# Errors of a host that is away, a standby, starting or stopping: another host may take writes.
_NOT_THIS_ONE: Final = (OSError, asyncpg.InternalClientError, asyncpg.CannotConnectNowError)


class PoolerError(asyncpg.InterfaceError):
    """The address leads to a connection pooler, which does not pass the settings of a session on to PostgreSQL."""


# Values that the driver takes for these options; it checks them only at connect.
_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_PORT_MAX: Final = 65_535
_POOLER: Final = (
    "it leads to a connection pooler that drops the settings of sessions. Give PostgreSQL's own address: each worker "
    "pools its connections itself"
)


def check_address(dsn: str) -> None:
    """
    Raise an error if an address of the right form has an invalid part.

    Raises:
        ValueError: It has; the message names the part, not its value.
    """
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, choices in _CHOICES.items():
        if query.get(name, choices[0]) not in choices:
            raise ValueError(f"{name} is one of {', '.join(choices)}")
    netloc = parts.netloc.rpartition("@")[2]
    hosts = netloc.split(",") if netloc else []
    if any(host.startswith(":") or not host for host in hosts):
        raise ValueError("a host has no name")
    ports = [port for host in hosts if (port := host.rpartition("]")[2].partition(":")[2])]
    ports += query["port"].split(",") if "port" in query else []
    if not all(re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) and 0 < int(port) <= _PORT_MAX for port in ports):
        raise ValueError(f"a port is 1 to {_PORT_MAX}")
    named = len(hosts) or len(query.get("host", "").split(","))
    if "port" in query and len(query["port"].split(",")) not in (1, named):
        raise ValueError("there are not as many ports as hosts")


async def connect(dsn: str, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
    """
    Connect as `asyncpg.connect` does, but to several hosts at once if only one of them takes writes.

    If they were asked one after the other, a host that is cut off would use up the timeout.

    Args:
        options: The driver's: `timeout` in seconds, and `server_settings` with at least `lock_timeout`.

    Raises:
        PoolerError: The connection does not have these settings.
        OSError, asyncpg.PostgresError, asyncpg.InternalClientError: No host could be connected to.
    """
    addresses = each_host(dsn)
    if len(addresses) == 1:
        return await _connect(dsn, **options)
    attempts = [asyncio.create_task(_connect(address, **options)) for address in addresses]
    pending = set(attempts)
    chosen: asyncio.Task[asyncpg.Connection[asyncpg.Record]] | None = None
    failure: BaseException | None = None
    try:
        while pending and chosen is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if chosen is None and _connected(attempt):
                    chosen = attempt
                elif failure is None or isinstance(failure, _NOT_THIS_ONE):
                    # Report an error that will not pass by itself in preference to the others.
                    failure = attempt.exception()
    finally:
        for attempt in attempts:
            if attempt is not chosen:
                attempt.cancel()
                attempt.add_done_callback(_terminate)
    if chosen is not None:
        return chosen.result()
    assert failure is not None, "there are several hosts, and none was connected to"
    raise failure


async def _connect(address: str, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect to the first host of an address that accepts, and check that the session has its settings."""
    try:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(address, **options)
    except asyncpg.ProtocolViolationError as error:
        # PgBouncer refuses settings that it does not know, with this message.
        if "unsupported startup parameter" in str(error):
            raise PoolerError(_POOLER) from error
        raise
    try:
        if not await connection.fetchval(query("session_settings_given"), timeout=options["timeout"]):
            raise PoolerError(_POOLER)
    except BaseException:
        connection.terminate()
        raise
    return connection


def each_host(dsn: str) -> list[str]:
    """Return an address for each host to ask at once, or the address unchanged if the order of its hosts matters."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if query.get("target_session_attrs") not in SINGLE_ATTRIBUTES:
        return [dsn]
    user, at, hosts = parts.netloc.rpartition("@")
    if hosts:
        return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]
    names = query.get("host", "").split(",")
    ports = query.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    if len(names) == 1 or len(ports) != len(names):
        return [dsn]
    return [
        f"{dsn.partition('?')[0]}?{urlencode({**query, 'host': name, 'port': port})}"
        for name, port in zip(names, ports, strict=True)
    ]


def _connected(attempt: "asyncio.Task[asyncpg.Connection[asyncpg.Record]]") -> bool:
    return attempt.done() and not attempt.cancelled() and attempt.exception() is None


def _terminate(attempt: "asyncio.Task[asyncpg.Connection[asyncpg.Record]]") -> None:
    """Close a connection that was made too late."""
    if _connected(attempt):
        attempt.result().terminate()
