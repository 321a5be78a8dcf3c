"""Plans as the service's sessions make them: what is read, through which index, how many rows."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from server.store.sessions import SESSION_SETTINGS


class Plan(NamedTuple):
    """A plan that was carried out."""

    nodes: list[dict[str, Any]]
    text: str

    @property
    def scanned(self) -> set[str]:
        """The tables that were read from end to end."""
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}

    @property
    def rows(self) -> int:
        """Rows taken out of tables and indexes, those included that a filter threw away."""
        rows = 0.0
        for node in self.nodes:
            if "Relation Name" in node or "Index Name" in node:
                dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
                rows += float((node["Actual Rows"] + dropped) * node["Actual Loops"])
        return round(rows)


async def session(dsn: str, *, seqscan: str, **settings: str) -> "asyncpg.Connection[asyncpg.Record]":
    """Connect as the service does, with scans offered or not."""
    # What the driver has prepared would be gone after the first plan.
    return await asyncpg.connect(
        dsn, statement_cache_size=0, server_settings={**SESSION_SETTINGS, "enable_seqscan": seqscan, **settings}
    )


async def explain(
    connection: "asyncpg.Connection[asyncpg.Record]", statement: str, arguments: tuple[object, ...]
) -> Plan:
    """Carry a statement out with the plan that the service's prepared one gets, and undo what it did."""
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
    """Write a value as the untyped literal that takes its parameter's type."""
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
