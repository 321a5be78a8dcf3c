"""One connection to whichever of several hosts takes writes, though others of them do not answer."""

import asyncio
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

# What only one of the hosts has: it does not matter in which order they are asked.
SINGLE_ATTRIBUTES: Final = ("read-write", "primary")
# What a host says, or does not say, that is away, a standby, or on its way up or down: another may be the one.
_NOT_THIS_ONE: Final = (OSError, asyncpg.InternalClientError, asyncpg.CannotConnectNowError)


async def connect(dsn: str, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
    """
    Connect as `asyncpg.connect` does; where the address names several hosts of which one takes writes, to all at once.

    One after the other, a host that is cut off takes all the time there is, and the one behind it is never asked.

    Raises:
        OSError, asyncpg.PostgresError, asyncpg.InternalClientError: None of them could be connected to.
    """
    addresses = each_host(dsn)
    if len(addresses) == 1:
        return await asyncpg.connect(dsn, **options)
    attempts = [asyncio.create_task(asyncpg.connect(address, **options)) for address in addresses]
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
                    # A reason that does not pass by itself says most.
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


def each_host(dsn: str) -> list[str]:
    """Return the address of each host that is to be asked; the whole as it is where their order matters."""
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
    """End a connection that came too late."""
    if _connected(attempt):
        attempt.result().terminate()
