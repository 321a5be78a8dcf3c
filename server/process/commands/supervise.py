"""The second half of `serve`: prepares the databases, prints the welcome text, and runs the supervisor to the end."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.process.commands.console import open_access
from server.process.commands.exits import OutputError, say
from server.process.commands.serve import end_if_signalled
from server.process.commands.target import Target, migrate_target, open_target
from server.process.commands.webhook_key import webhook_key
from server.process.postgres_connections import share_connections
from server.process.supervisor import Supervisor, Values
from server.process.timeouts import TIMEOUTS
from server.settings import Loaded
from server.telemetry.logs import configure_logs

# Settings that only the supervisor needs; its children do not get them.
OF_SUPERVISOR: Final = frozenset({"background", "console"})

log = logging.getLogger(__name__)


def supervise(
    loaded: Loaded, reload: Callable[[], Loaded], supervisor: Supervisor, url: str, admin: socket.socket
) -> str | None:
    """Prepare databases and settings, and serve; arguments and result as for `serve.serve`."""
    settings = loaded.settings
    configure_logs(settings.log_level, pid=os.getpid())
    with open_target(settings, redis=True, serving=True, making=True) as target:
        text = f"Tallystick serves at {url}"
        if target.embedded:
            # Import the code for API keys only if there is a demo ledger.
            from server.process.commands.demo import demo_key, welcome  # noqa: PLC0415

            asyncio.run(migrate_target(target, settings))
            text = welcome(url, asyncio.run(demo_key(target.database_url, Path(settings.data_dir))))
        access = open_access(settings, admin, embedded=target.embedded)

        def started() -> None:
            try:
                say(text)
                if access.said:
                    say(access.said)
            except OutputError as error:
                # The server runs without this output too.
                log.warning("standard output cannot be written: %s", error)

        keeper = None
        if target.servers is not None:
            # Import this, with its driver, only if there are embedded servers.
            from server.process.embedded.keeper import Keeper  # noqa: PLC0415

            keeper = Keeper(target.servers, TIMEOUTS.restart, TIMEOUTS.stable)

        async def run() -> str | None:
            end_if_signalled()
            return await supervisor.run(
                child_values(loaded, target, supervisor.size, access.token),
                lambda: child_values(reload(), target, supervisor.size, access.token),
                started,
                keeper,
            )

        return asyncio.run(run())


def child_values(loaded: Loaded, target: Target, workers: int, console_token: str | None = None) -> Values:
    """
    Return the settings that differ from the defaults, with the embedded servers' addresses if none are set.

    Args:
        console_token: The console's token, used if the settings have none.
    """
    settings = loaded.settings
    values: dict[str, str | int | bool] = {}
    for name, source in loaded.sources.items():
        value = getattr(settings, name)
        if source != "default" and value is not None and name not in OF_SUPERVISOR:
            values[name] = value
    values.setdefault("database_url", target.database_url)
    if not settings.console:
        values.pop("console_token", None)
    elif console_token is not None:
        values.setdefault("console_token", console_token)
    if target.redis_url is not None:
        values.setdefault("redis_url", target.redis_url)
    if target.embedded:
        values.setdefault("webhook_key", webhook_key(Path(settings.data_dir)))
        posting, reading = settings.posting_connections, settings.reading_connections
        values["posting_connections"], values["reading_connections"] = share_connections(posting, reading, workers)
    return values
