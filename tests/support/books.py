"""Checks that the books of a database add up and agree with the answers that clients got."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from tests.support.client import Answer
from tests.support.postgres import administer

Verdict = Literal["posted", "refused", "reused", "not_applied", "unknown"]

# Members of a 201 that are columns of the row too.
_ROW_MEMBERS = (
    "source",
    "destination",
    "amount",
    "currency",
    "source_balance",
    "destination_balance",
    "source_version",
    "destination_version",
    "reference",
    "description",
)

# Each statement returns the rows that break the law in its name.
_LAWS: Mapping[str, str] = {
    "per ledger and currency all balances sum to zero": """
        SELECT ledger_id, currency, sum(balance) FROM tallystick.accounts
        GROUP BY ledger_id, currency HAVING sum(balance) <> 0
    """,
    "a key is bound to one row": """
        SELECT ledger_id, idempotency_key || '' AS key, count(*) FROM tallystick.transfers
        GROUP BY ledger_id, idempotency_key || '' HAVING count(*) <> 1
    """,
    "every entry continues from the one before it, in version and in time; an expiry may share a version": """
        SELECT * FROM (
            SELECT e.*, lag(balance, 1, 0::bigint) OVER w AS balance_before, lag(version) OVER w AS version_before,
                   lag(created_at) OVER w AS created_before
            FROM entries AS e
            WINDOW w AS (PARTITION BY ledger_id, account ORDER BY version, kind = 'expiry', created_at)
        ) AS e
        WHERE balance <> balance_before + amount OR created_at < created_before
           OR version < version_before + CASE WHEN kind = 'expiry' THEN 0 ELSE 1 END
    """,
    "every balance is the fold of its entries, and so is what is held": """
        SELECT a.ledger_id, a.id, a.balance, a.version, a.held_out, a.held_in, e.*
        FROM tallystick.accounts AS a LEFT JOIN (
            SELECT ledger_id, account, sum(amount) AS balance, max(version) AS version, count(*) AS entries,
                   sum(held_out) AS held_out, sum(held_in) AS held_in
            FROM entries GROUP BY ledger_id, account
        ) AS e ON e.ledger_id = a.ledger_id AND e.account = a.id
        WHERE a.balance <> coalesce(e.balance, 0) OR a.version < 1 + coalesce(e.entries, 0)
           OR a.held_out <> coalesce(e.held_out, 0) OR a.held_in <> coalesce(e.held_in, 0)
           OR e.version > a.version + (
               SELECT count(*) FROM tallystick.transfer_progress AS p
               WHERE p.ledger_id = a.ledger_id AND a.id IN (p.source, p.destination)
                 AND p.remaining > 0 AND p.expires_at <= tallystick.ledger_clock())
    """,
    "every entry is of an account of its currency": """
        SELECT e.* FROM entries AS e
        LEFT JOIN tallystick.accounts AS a ON a.ledger_id = e.ledger_id AND a.id = e.account
        WHERE a.currency IS DISTINCT FROM e.currency
    """,
    "nothing that takes leaves less available than the floor": """
        SELECT e.*, a.floor, h.reserved FROM entries AS e
        JOIN tallystick.accounts AS a ON a.ledger_id = e.ledger_id AND a.id = e.account
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(r.amount), 0) AS reserved FROM reservations AS r
            WHERE r.ledger_id = e.ledger_id AND r.account = e.account
              AND r.version <= e.version AND r.expires_at > e.created_at
        ) AS h
        WHERE e.takes AND a.floor IS NOT NULL AND e.version > a.limits_version AND e.balance - h.reserved < a.floor
    """,
    "open holds sum to what their accounts hold": """
        SELECT a.ledger_id, a.id, a.held_out, a.held_in FROM tallystick.accounts AS a
        WHERE (a.held_out, a.held_in) <> (
            SELECT coalesce(sum(remaining) FILTER (WHERE p.source = a.id), 0)::bigint,
                   coalesce(sum(remaining) FILTER (WHERE p.destination = a.id), 0)::bigint
            FROM tallystick.transfer_progress AS p
            WHERE p.ledger_id = a.ledger_id AND a.id IN (p.source, p.destination))
    """,
    "what is said of a hold or of a reversed transfer follows from what was posted after it": """
        SELECT * FROM (
            SELECT t.*, coalesce(sum(c.amount) FILTER (WHERE c.kind = 'capture'), 0) AS captured,
                   coalesce(sum(c.amount) FILTER (WHERE c.kind = 'reversal'), 0) AS reversed,
                   coalesce(t.held, 0) + coalesce(sum(c.held), 0) AS remaining,
                   (array_agg(c.kind ORDER BY c.source_version DESC, c.id))[1] AS ended_by
            FROM (SELECT ledger_id, id, kind, amount, greatest(held, 0) AS held FROM tallystick.transfers
                  WHERE refusal IS NULL) AS t
            LEFT JOIN tallystick.transfers AS c
                ON c.ledger_id = t.ledger_id AND c.parent = t.id AND c.refusal IS NULL
            GROUP BY t.ledger_id, t.id, t.kind, t.amount, t.held
        ) AS t
        FULL JOIN tallystick.transfer_progress AS p ON p.ledger_id = t.ledger_id AND p.id = t.id
        WHERE (t.kind = 'hold' OR t.reversed > 0 OR p.id IS NOT NULL) AND (
            (p.amount, p.captured, p.reversed, p.remaining)
                IS DISTINCT FROM (t.amount, t.captured::bigint, t.reversed::bigint, t.remaining::bigint)
            OR p.reversed > p.amount OR p.captured + p.remaining > p.amount OR p.remaining < 0
            OR p.state IS DISTINCT FROM CASE
                WHEN t.kind <> 'hold' THEN NULL WHEN t.remaining > 0 THEN 'open'
                ELSE CASE t.ended_by WHEN 'capture' THEN 'captured' WHEN 'void' THEN 'voided' ELSE 'expired' END END)
    """,
    "what follows a hold or a transfer is between its accounts and in its time": """
        SELECT c.* FROM tallystick.transfers AS c
        LEFT JOIN tallystick.transfers AS t ON t.ledger_id = c.ledger_id AND t.id = c.parent AND t.refusal IS NULL
        WHERE c.parent IS NOT NULL AND c.refusal IS NULL AND (CASE c.kind
            WHEN 'reversal' THEN t.moves AND t.kind <> 'reversal'
                 AND (c.source, c.destination) = (t.destination, t.source)
            ELSE t.kind = 'hold' AND (c.source, c.destination) = (t.source, t.destination)
                 AND ((c.created_at >= t.expires_at) = (c.kind = 'expiry') OR c.kind = 'expiry' AND c.release_rest) END
            AND c.currency = t.currency AND c.created_at >= t.created_at) IS NOT TRUE
    """,
}

_ENTRIES = """
    WITH entries AS MATERIALIZED (
        SELECT ledger_id, id, kind, source AS account, CASE WHEN moves THEN -amount ELSE 0 END AS amount, currency,
               source_balance AS balance, source_version AS version, created_at, coalesce(held, 0) AS held_out,
               0 AS held_in, kind IN ('transfer', 'hold', 'reversal') AS takes
        FROM tallystick.transfers WHERE refusal IS NULL
        UNION ALL
        SELECT ledger_id, id, kind, destination, CASE WHEN moves THEN amount ELSE 0 END, currency, destination_balance,
               destination_version, created_at, 0, coalesce(held, 0), false
        FROM tallystick.transfers WHERE refusal IS NULL
    ),
    -- What holds reserve of their source, and what is given back of it: each counts until its hold expires. Made once,
    -- since it is looked at for every entry.
    reservations AS MATERIALIZED (
        SELECT ledger_id, source AS account, amount, source_version AS version, expires_at
        FROM tallystick.transfers WHERE kind = 'hold' AND refusal IS NULL
        UNION ALL
        SELECT t.ledger_id, t.source, c.held, greatest(c.source_version, t.source_version), t.expires_at
        FROM tallystick.transfers AS c JOIN tallystick.transfers AS t ON t.ledger_id = c.ledger_id AND t.id = c.parent
        WHERE c.held IS NOT NULL AND c.refusal IS NULL AND t.kind = 'hold' AND t.refusal IS NULL
    )
"""


class Operation(NamedTuple):
    """One request that a client sent, and its answer, or None if none came."""

    key: str
    # Equal for two sendings of the same request, alone or in a bulk: all that is asked for.
    request: bytes
    fields: Mapping[str, Any]
    answer: Answer | None


def verdict(answer: Answer | None) -> Verdict:
    """Return what an answer tells its caller about the outcome of the request."""
    if answer is None:
        return "unknown"
    if answer.status == 201:
        return "posted"
    if answer.status == 422:
        return "reused"
    outcome: Literal["refused", "not_applied", "unknown"] = answer.json["outcome"]
    return outcome


async def check_books(database_url: str) -> None:
    """Assert that the books of every ledger balance and add up."""
    connection = await asyncpg.connect(database_url)
    try:
        for law, statement in _LAWS.items():
            broken = await connection.fetch(_ENTRIES + statement)
            assert not broken, f"broken: {law}: {broken[:5]}"
    finally:
        await connection.close()


async def check_history(database_url: str, ledger: str, operations: Iterable[Operation]) -> None:
    """
    Assert that the books agree with the answers to a ledger's clients, and hold nothing that no client asked for.

    Args:
        operations: All requests sent to the ledger, except under keys that begin with `test-`.
    """
    rows = {
        row["idempotency_key"]: row
        for row in await administer(
            database_url,
            """
            SELECT t.* FROM tallystick.transfers AS t JOIN tallystick.ledgers AS l ON l.id = t.ledger_id
            WHERE l.name = $1 AND t.idempotency_key NOT LIKE 'test-%' AND t.kind <> 'expiry'
            """,
            ledger,
        )
    }
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    assert rows.keys() <= by_key.keys(), "the books hold transfers that nobody asked for"
    for key, sendings in by_key.items():
        _check_key(rows.get(key), sendings)


def _check_key(row: "asyncpg.Record | None", sendings: list[Operation]) -> None:
    """Assert that the row of a key agrees with all answers under that key."""
    verdicts = {verdict(sending.answer) for sending in sendings}
    key = sendings[0].key
    if row is None:
        assert verdicts <= {"not_applied", "unknown"}, f"{key}: answered {verdicts} and is not in the books"
        return
    assert verdicts != {"not_applied"}, f"{key}: only ever answered not_applied, and is in the books"
    asked = [s for s in sendings if all(row[name] == s.fields.get(name, row[name]) for name in _ROW_MEMBERS)]
    assert asked, f"{key}: the books hold what nobody asked for: {row}"
    first: dict[bytes, tuple[int, bytes]] = {}
    for sending in sendings:
        answer = sending.answer
        said = verdict(answer)
        if answer is None or said in ("not_applied", "unknown"):
            continue
        if said == "reused":
            assert answer.json["transfer_id"] == str(row["id"]), f"{key}: names another transfer than the bound one"
            assert sending not in asked, f"{key}: refused as reused for the very transfer that it is bound to"
            continue
        assert sending in asked, f"{key}: answered {said} to a request that the key is not bound to"
        reply = first.setdefault(sending.request, (answer.status, answer.body))
        assert reply == (answer.status, answer.body), f"{key}: answered {reply} and {answer}"
        if said == "posted":
            assert row["refusal"] is None, f"{key}: answered posted, recorded {row['refusal']}"
            assert UUID(answer.json["id"]) == row["id"], f"{key}: another transfer than the recorded one"
            told = {name: answer.json[name] for name in _ROW_MEMBERS}
            assert told == {name: row[name] for name in _ROW_MEMBERS}, f"{key}: told {told}, recorded {row}"
        else:
            assert row["refusal"] == answer.code, f"{key}: answered {answer.code}, recorded {row['refusal']}"
    assert len(first) <= 1, f"{key}: two different requests were answered as if each had bound it"


def meaning(fields: Mapping[str, Any]) -> bytes:
    """Return bytes that are equal for the same request sent twice under one key."""
    return orjson.dumps({name: fields[name] for name in fields if name != "key"}, option=orjson.OPT_SORT_KEYS)


def items(requests: list[dict[str, Any]], answer: Answer | None) -> list[Operation]:
    """Return the items of a bulk as separate operations."""
    operations = []
    for number, request in enumerate(requests):
        single: Answer | None = answer
        if answer is not None and answer.status == 200:
            result = answer.json["results"][number]
            body = result.get("transfer") or result["problem"]
            single = Answer(result["status"], {}, orjson.dumps(body))
        operations.append(Operation(request["key"], meaning(request), request, single))
    return operations
