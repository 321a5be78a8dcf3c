"""Runs plans as the service's sessions make them, and reads from them tables, indexes and numbers of rows."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from server.store.sessions import SESSION_SETTINGS


class Plan(NamedTuple):
    """A plan that was executed."""

    nodes: list[dict[str, Any]]
    text: str

    @property
    def scanned(self) -> set[str]:
        """The tables that were scanned from end to end."""
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}

    @property
    def rows(self) -> int:
        """Rows read from tables and indexes, including those that a filter removed."""
        rows = 0.0
        for node in self.nodes:
            if "Relation Name" in node or "Index Name" in node:
                dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
                rows += float((node["Actual Rows"] + dropped) * node["Actual Loops"])
        return round(rows)


async def session(dsn: str, *, seqscan: str, **settings: str) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect as the service does, with sequential scans enabled or not."""
    # Without the driver's statement cache, which `DEALLOCATE ALL` would break after the first plan.
    return await asyncpg.connect(
        dsn, statement_cache_size=0, server_settings={**SESSION_SETTINGS, "enable_seqscan": seqscan, **settings}
    )


async def explain(
    connection: "asyncpg.Connection[asyncpg.Record]", statement: str, arguments: tuple[object, ...]
) -> Plan:
    """Execute a statement with the plan that it gets as a prepared statement, and roll it back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"PREPARE looked_at AS {statement}")
        values = f"({', '.join(map(literal, arguments))})" if arguments else ""
        found = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE looked_at{values}")
        plan = json.loads(found)[0]["Plan"]
        shown = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE looked_at{values}")
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE ALL")
    return Plan(list(_walk(plan)), "\n".join(row[0] for row in shown))


def literal(value: object) -> str:
    """Return a value as an untyped literal, which takes the type of its parameter."""
    if value is None:
        return "NULL"
    return "'" + _text(value).replace("'", "''") + "'"


def _text(value: object) -> str:
    if isinstance(value, list):
        return "{" + ",".join("NULL" if v is None else json.dumps(_text(v)) for v in value) + "}"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)
