"""Checks whether it is safe to serve from this database, at start-up and again while the service runs."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import asyncpg

from server.store.coalescer import QueueFullError
from server.store.errors import (
    AccessRefusedError,
    AddressError,
    DatabaseError,
    RoleMissingError,
    SchemaMissingError,
    StoreError,
)
from server.store.migrations import Expected, expected_schema, stale_functions
from server.store.postgres import Database
from server.store.sessions import SERVICE_ROLE

# Seconds for which an answer is kept, so that the probes of many balancers cost one check a second.
ANSWER_SECONDS: Final = 1.0
# Seconds that a check may take: a probe gives up after some seconds, and would not learn the reason.
ASK_SECONDS: Final = 2.0
# The oldest server whose planner and SQL are tested.
SERVER_VERSION_MIN: Final = 16_00_00

# Errors of a database that `tallystick migrate` has to prepare first: it has no schema, no role, or no privilege.
UNMIGRATED: Final = (SchemaMissingError, RoleMissingError)

# Settings without which an acknowledged transfer could be lost.
_DURABLE: Final = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply"),
}


class Readiness:
    """
    Finds the reasons why the service must not be used now.

    Args:
        database: The database to check.

        standing: Failures of the program itself, which last until it is restarted.
    """

    def __init__(self, database: Database, standing: Sequence[str] = ()) -> None:
        self._database = database
        # Read once: requests do not wait for files, and installing a new version beside this one does not change what
        # this one needs.
        self._expected = expected_schema()
        self._standing = tuple(standing)
        self._answer: tuple[str, ...] = ("the first check has not been made",)
        self._expires = 0.0
        self._lock = asyncio.Lock()
        # Set when the service stops: it finishes the requests that run, and wants no others.
        self.draining = False

    async def failures(self) -> tuple[str, ...]:
        """Return the reasons not to be ready, none if ready; the database is asked at most once a second."""
        if self.draining:
            return ("the server is stopping",)
        async with self._lock:
            if time.monotonic() >= self._expires:
                self._answer = (*self._standing, *await self._ask())
                self._expires = time.monotonic() + ANSWER_SECONDS
        return self._answer

    async def _ask(self) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return tuple(await check_database(self._database, self._expected))
        except (StoreError, QueueFullError, TimeoutError):
            return ("Postgres cannot be reached",)
        except DatabaseError as error:
            return (explain_refusal(error),)


def explain_refusal(error: DatabaseError) -> str:
    """Return a sentence that says why Postgres refused the check."""
    match error:
        case AddressError():
            return error.explained()
        case SchemaMissingError():
            return "the schema or the service's privileges on it are missing: run `tallystick migrate`"
        case AccessRefusedError() | RoleMissingError():
            return "Postgres refuses the user, database or role: check the address, run `tallystick migrate`"
        case _:
            return f"Postgres refuses ({error.kind})"


async def check_database(database: Database, expected: Expected) -> list[str]:
    """
    Return what is wrong with the database, a sentence each; nothing if it is safe to serve from.

    If a privilege is missing nothing more is checked, since most of it could not be read.

    Raises:
        StoreError, QueueFullError: Postgres cannot be asked.
        DatabaseError: Postgres refuses, for example because there is no schema.
    """
    failures = _judge_settings((await database.read("readiness_settings"))[0])
    lacking = await database.read("grant_list", list(expected.functions))
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        failures.append(f"the role {SERVICE_ROLE} lacks {lacking[0]['what']}{more}: run `tallystick migrate`")
        return failures
    applied = {row["number"]: row["checksum"] for row in await database.read("migration_list")}
    for migration in expected.migrations:
        label = f"{migration.number:04d}_{migration.name}"
        if migration.number not in applied:
            failures.append(f"migration {label} has not been applied: run `tallystick migrate`")
        elif applied[migration.number] != migration.checksum:
            failures.append(f"migration {label} was applied with another text than this program's")
    recorded, found = await database.read("function_list"), await database.read("function_bodies")
    stale = stale_functions(expected.functions, recorded, found)
    failures.extend(f"function {name} is missing or of another version: run `tallystick migrate`" for name in stale)
    names = {row["name"] for row in await database.read("readiness_names")}
    failures.extend(f"constraint or index {name} is missing or not valid" for name in sorted(expected.names - names))
    grants = (await database.read("readiness_grants"))[0]
    if grants["updates"] or grants["deletes"]:
        failures.append(f"the role {SERVICE_ROLE} can change or delete transfers: revoke it")
    return failures


def _judge_settings(row: "asyncpg.Record") -> list[str]:
    failures = [
        f"{name} is {row[name]}: an acknowledged transfer could be lost"
        for name, safe in _DURABLE.items()
        if row[name] not in safe
    ]
    if row["server_version"] < SERVER_VERSION_MIN:
        failures.append(f"PostgreSQL {SERVER_VERSION_MIN // 10_000} or newer is needed")
    if row["in_recovery"]:
        failures.append("the server is a standby in recovery")
    elif row["read_only"]:
        failures.append("the server is read-only")
    if row["service_role"] != SERVICE_ROLE:
        failures.append(f"the service runs as {row['service_role']} instead of {SERVICE_ROLE}")
    return failures
