"""Migrations: numbered files, applied once and in order. Functions, owners and grants are made as `sql/` says."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg

from server.store.errors import DatabaseError, PrivilegeMissingError, RowLockedError, StoreError
from server.store.sessions import Session, session
from server.store.sql import query, sql_root

# The number of an advisory lock: any that no other program uses on the same database.
LOCK_KEY = 0x7A11_9571_C500
# A migration may wait this long for the locks of running transactions, which are all short.
LOCK_TIMEOUT_MS = 10_000
# Filling a new column or index of a large table takes minutes; a migration that takes longer is done by hand.
STATEMENT_TIMEOUT_MS = 30 * 60_000

_FILE = re.compile(r"^(?P<number>[0-9]{4})_(?P<name>[a-z0-9_]+)\.sql$")
# Statements that make, rename or drop constraints and indexes.
_NAMES = re.compile(
    r"\bALTER\s+INDEX\s+(?P<renamed>[a-z0-9_]+)\s+RENAME\s+TO\s+(?P<new>[a-z0-9_]+)"
    r"|\bDROP\s+(?:CONSTRAINT|INDEX)\s+(?:IF\s+EXISTS\s+)?(?P<dropped>[a-z0-9_]+)"
    r"|\bCONSTRAINT\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?P<constraint>[a-z0-9_]+)"
    r"|\bINDEX\s+(?:CONCURRENTLY\s+)?(?:IF\s+NOT\s+EXISTS\s+)?(?P<index>[a-z0-9_]+)\s+ON\b"
)
_TABLE = re.compile(r"\bCREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?([a-z0-9_]+)")


class MigrationError(StoreError):
    """The database cannot be brought to the state this program needs."""


class MigrationChangedError(MigrationError):
    """The text of an applied migration differs from this program's."""


class Migration(NamedTuple):
    """A file of `sql/migrations/`."""

    number: int
    name: str
    checksum: str
    text: str


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def expected_migrations(root: Path | None = None) -> list[Migration]:
    """
    Return the migrations of this program, in order.

    Raises:
        MigrationError: A file's name is not `NNNN_words.sql`, or the numbers do not run 1, 2, 3, ...
    """
    migrations: list[Migration] = []
    for path in sorted(((root or sql_root()) / "migrations").glob("*.sql")):
        match = _FILE.match(path.name)
        if match is None or int(match["number"]) != len(migrations) + 1:
            raise MigrationError(f"{path.name}: migrations are named NNNN_words.sql and numbered without gaps")
        text = path.read_text(encoding="utf-8")
        migrations.append(Migration(int(match["number"]), match["name"], _checksum(text), text))
    return migrations


def expected_functions(root: Path | None = None) -> dict[str, tuple[str, str]]:
    """Return the functions of this program by name: checksum and text."""
    functions = {}
    for path in sorted(((root or sql_root()) / "functions").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        functions[path.stem] = (_checksum(text), text)
    return functions


def stale_functions(
    expected: Mapping[str, tuple[str, str]], recorded: Iterable[asyncpg.Record], found: Sequence[asyncpg.Record]
) -> dict[str, tuple[str, str]]:
    """
    Return the expected functions that are missing, exist twice, or have another text than this program's.

    Args:
        expected: As `expected_functions` returns them.

        recorded: The rows of `function_list`.

        found: The rows of `function_bodies`, since a function that was changed by hand keeps its record.
    """
    checksums = {row["name"]: row["checksum"] for row in recorded}
    stale = {}
    for name, (checksum, text) in expected.items():
        bodies = [row["body"] for row in found if row["name"] == name]
        if checksums.get(name) != checksum or len(bodies) != 1 or f"$${bodies[0]}$$" not in text:
            stale[name] = (checksum, text)
    return stale


def expected_names(migrations: Iterable[Migration]) -> set[str]:
    """Return the names of the constraints and indexes that the migrations leave behind."""
    names: set[str] = set()
    for migration in migrations:
        for found in _NAMES.finditer(re.sub(r"--.*", "", migration.text)):
            names -= {found["renamed"], found["dropped"]}
            names |= {found[group] for group in ("new", "constraint", "index") if found[group]}
    return names


class Expected(NamedTuple):
    """What this program needs of a database, read from `sql/` once."""

    migrations: Sequence[Migration]
    # Checksum and text by name.
    functions: Mapping[str, tuple[str, str]]
    # Names of constraints and indexes.
    names: frozenset[str]


def expected_schema() -> Expected:
    """
    Return what this program needs of a database.

    Raises:
        MigrationError: As `expected_migrations`.
    """
    migrations = expected_migrations()
    return Expected(migrations, expected_functions(), frozenset(expected_names(migrations)))


async def migrate(dsn: str, root: Path | None = None) -> list[str]:
    """
    Bring the database to the state this program needs, and return what was done, a line each.

    All of it is one transaction under an advisory lock, so the tables that a migration locks are used again only with
    the functions that go with it. Each step first checks whether it is still needed: any number of processes may do
    this at once, and if one dies, the next one does it.

    Args:
        dsn: Address of Postgres, with a user that may create the roles and the schema, or is a member of them.

        root: Another `sql/` folder.

    Raises:
        MigrationChangedError: A migration has been changed after it was applied.
        MigrationError: A migration fails.
        StoreUnavailableError: Postgres cannot be reached, or the connection is lost.
        DatabaseError: Postgres refuses.
    """
    folder = root or sql_root()
    done: list[str] = []
    settings = {
        "application_name": "tallystick-migrate",
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        "client_min_messages": "warning",
        # A killed process then releases its locks at once, not only when its statement is done.
        "client_connection_check_interval": "1000",
    }
    async with session(dsn, settings) as connection, connection.transaction():
        await _prepare(connection, folder, done)
        for migration in expected_migrations(folder):
            await _apply(connection, migration, done)
        functions = expected_functions(folder)
        await _renew_functions(connection, functions, done)
        lacking = await connection.fetch(query("grant_list"), list(functions))
        for row in lacking:
            await connection.execute(row["statement"])
        if lacking:
            done.append("grants")
    return done


async def _prepare(connection: Session, folder: Path, done: list[str]) -> None:
    """Take the lock, then create the roles, schema, owners and record that are missing."""
    try:
        await connection.execute(query("migration_lock"), LOCK_KEY)
    except RowLockedError as error:
        raise MigrationError(
            f"another process has been migrating this database for {LOCK_TIMEOUT_MS // 1000} s: try again after it"
        ) from error
    await connection.execute((folder / "bootstrap.sql").read_text(encoding="utf-8"))
    record = (folder / "record.sql").read_text(encoding="utf-8")
    tables = _TABLE.findall("\n".join([record, *(migration.text for migration in expected_migrations(folder))]))
    # Objects that were restored without owners belong to the user that restored them.
    foreign = await connection.fetch(query("owner_list"), tables, list(expected_functions(folder)))
    for row in foreign:
        try:
            await connection.execute(row["statement"])
        except PrivilegeMissingError as error:
            what, owner = row["what"], row["owner"]
            raise MigrationError(
                f"the {what} belongs to {owner}: run `tallystick migrate` as {owner} or as a superuser"
            ) from error
    if foreign:
        done.append("ownership")
    await connection.execute(record)


async def _renew_functions(connection: Session, functions: Mapping[str, tuple[str, str]], done: list[str]) -> None:
    """Create again the functions that differ from the files."""
    found = await connection.fetch(query("function_bodies"))
    recorded = await connection.fetch(query("function_list"))
    # A function may call another one that is created after it.
    await connection.execute("SET LOCAL check_function_bodies = off")
    for name, (checksum, text) in stale_functions(functions, recorded, found).items():
        # Dropped first: with other arguments the old one would stay beside it, and another result type would be
        # refused.
        for row in found:
            if row["name"] == name:
                await connection.execute(f"DROP FUNCTION {row['signature']}")
        await connection.execute(text)
        await connection.execute(query("function_record"), name, checksum)
        done.append(f"function {name}")


async def _apply(connection: Session, migration: Migration, done: list[str]) -> None:
    applied = {row["number"]: row["checksum"] for row in await connection.fetch(query("migration_list"))}
    label = f"{migration.number:04d}_{migration.name}"
    if migration.number in applied:
        if applied[migration.number] != migration.checksum:
            raise MigrationChangedError(
                f"{label} was applied with another text: migrations are never edited, add a new one instead"
            )
        return
    try:
        await connection.execute(migration.text)
    except DatabaseError as error:
        raise MigrationError(f"{label} failed and was rolled back: {error.text}") from error
    await connection.execute(query("migration_record"), migration.number, migration.name, migration.checksum)
    done.append(f"migration {label}")
