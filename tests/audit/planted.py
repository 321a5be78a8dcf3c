"""Errors planted in the books of `traffic`: statements, the findings they are, and what is said of them."""

import pytest

KEY = "(SELECT id FROM ledgers WHERE name = 'books')"
ALICE = f"ledger_id = {KEY} AND id = 'alice'"
# Columns of a copied row after its id and key.
REST = """amount, source_balance, destination_balance, source_version, destination_version, created_at, fingerprint,
    kind, source, destination, currency, metadata, refusal, refusal_pointer, refusal_request_id"""


def entry(key: str) -> str:
    return f"ledger_id = {KEY} AND idempotency_key = '{key}'"


def copied(key: str) -> str:
    return f"""INSERT INTO transfers (ledger_id, id, idempotency_key, {REST})
        SELECT ledger_id, uuidv7(), idempotency_key, {REST} FROM transfers WHERE {entry(key)}"""


def index(state: str) -> str:
    return f"UPDATE pg_index SET {state} WHERE indexrelid = 'transfers_idempotency_key_unique'::regclass"


PLANTED = [
    pytest.param(
        [f"UPDATE accounts SET balance = balance + 5 WHERE {ALICE}"],
        {"balance_differs": 1, "sum_not_zero": 1},
        ["account alice: balance 387, its last entry", "currency EUR: the balances sum to 5"],
        id="a changed balance",
    ),
    pytest.param(
        [f"""UPDATE accounts SET balance = balance + CASE id WHEN 'alice' THEN 5 ELSE -5 END, version = version + 1
             WHERE ledger_id = {KEY} AND id IN ('alice', 'carol')"""],
        {"balance_differs": 2},
        ["account alice: balance", "account carol: balance"],
        id="money created out of nothing that still sums to zero",
    ),
    pytest.param(
        [f"UPDATE accounts SET balance = 9 WHERE ledger_id = {KEY} AND id = 'idle'",
         f"""INSERT INTO accounts (ledger_id, id, currency, floor, balance, created_at)
             VALUES ({KEY}, 'idle2', 'EUR', NULL, -9, now())"""],
        {"balance_without_entry": 2, "account_untold": 1},
        ["account idle: balance 9 without any entry", "account idle2: balance -9 without any entry"],
        id="a balance on accounts that nothing moved on",
    ),
    pytest.param(
        [f"UPDATE transfers SET amount = amount + 1 WHERE {entry('pay-2')}"],
        {"balance_not_the_sum": 2},
        ["account alice, transfer", "account bob, transfer"],
        id="a changed amount",
    ),
    pytest.param(
        [f"DELETE FROM transfers WHERE {entry('pay-2')}"],
        {"balance_not_the_sum": 2, "feed_without_transfer": 1},
        ["account alice, transfer", "account bob, transfer"],
        id="a lost row",
    ),
    pytest.param(
        [f"DELETE FROM transfers WHERE {entry('last')}"],
        {"balance_differs": 2, "feed_without_transfer": 1},
        ["account alice: balance", "account carol: balance"],
        id="a lost row at the end",
    ),
    pytest.param(
        ["ALTER TABLE transfers DROP CONSTRAINT transfers_idempotency_key_unique", copied("too-much")],
        {"key_constraint": 1, "key_bound_twice": 1, "transfer_untold": 1},
        ["transfers_idempotency_key_unique is missing", "key too-much: bound to transfers"],
        id="a key bound twice without its constraint",
    ),
    pytest.param(
        ["ALTER TABLE transfers DROP CONSTRAINT transfers_idempotency_key_unique",
         "ALTER TABLE transfers ADD CONSTRAINT transfers_idempotency_key_unique UNIQUE (idempotency_key, ledger_id)"],
        {"key_constraint": 1},
        ["on other columns"],
        id="a constraint of that name on other columns",
    ),
    pytest.param([index("indisvalid = false")], {"key_constraint": 1}, ["not valid"], id="an invalid index"),
    pytest.param(
        [index("indisready = false"), copied("too-much"), index("indisready = true")],
        {"key_bound_twice": 1, "transfer_untold": 1},
        ["key too-much: bound to transfers"],
        id="a key bound twice behind a corrupt index",
    ),
    pytest.param(
        [f"UPDATE transfers SET source_version = source_version - 1 WHERE {entry('pay-3')}"],
        {"version_repeated": 1},
        ["account alice, transfer"],
        id="a version taken twice",
    ),
    pytest.param(
        [f"UPDATE transfers SET destination_version = 1 WHERE {entry('pay-1')}"],
        {"version_repeated": 1},
        ["account bob, transfer", "version 1 is taken"],
        id="the version of the opening taken again",
    ),
    pytest.param(
        [f"UPDATE transfers SET source_version = source_version - 2 WHERE {entry('pay-3')}"],
        {"balance_not_the_sum": 3, "time_steps_back": 1, "version_repeated": 1},
        ["account alice, transfer"],
        id="versions that run backwards",
    ),
    pytest.param(
        [f"UPDATE accounts SET version = 1 WHERE {ALICE}"],
        {"version_behind": 1},
        ["account alice: version 1, its last entry"],
        id="an account behind its entries",
    ),
    pytest.param(
        [f"UPDATE transfers SET created_at = created_at - interval '1 hour' WHERE {entry('back')}"],
        {"time_steps_back": 2},
        ["account alice, transfer", "account bob, transfer"],
        id="time that steps back",
    ),
    pytest.param(
        [f"UPDATE accounts SET last_entry_at = last_entry_at - interval '1 hour' WHERE {ALICE}"],
        {"last_entry_behind": 1},
        ["account alice: last entry at"],
        id="an account that forgot when its last entry was",
    ),
    pytest.param(
        [f"UPDATE accounts SET last_entry_at = NULL WHERE {ALICE}"],
        {"last_entry_behind": 1},
        ["account alice: last entry at"],
        id="an account that forgot its last entry",
    ),
    pytest.param(
        [f"UPDATE accounts SET floor = 361 WHERE {ALICE}"],
        {"floor_broken": 2, "account_differs": 1},
        ["account alice, transfer", "left 360, below the floor 361"],
        id="a broken floor",
    ),
    pytest.param(
        [f"UPDATE accounts SET ceiling = 499 WHERE {ALICE}"],
        {"ceiling_broken": 1, "account_differs": 1},
        ["account alice, transfer", "reached 500, above the ceiling 499"],
        id="a broken ceiling",
    ),
    pytest.param(
        [f"DELETE FROM accounts WHERE {ALICE}"],
        {"account_missing": 8, "sum_not_zero": 1},
        ["there is no account alice"],
        id="a missing account",
    ),
    pytest.param(
        [f"UPDATE transfers SET currency = 'USD' WHERE {entry('pay-2')}"],
        {"currency_differs": 2},
        ["account alice is in EUR", "account bob is in EUR"],
        id="a transfer in another currency",
    ),
    pytest.param(
        ["ALTER TABLE transfers DROP CONSTRAINT transfers_outcome_check",
         f"UPDATE transfers SET source_balance = 1 WHERE {entry('too-much')}"],
        {"refused_with_balances": 1},
        ["1000 EUR from carol to alice"],
        id="a refusal with a balance",
    ),
    pytest.param(
        ["ALTER TABLE transfers DROP CONSTRAINT transfers_outcome_check",
         f"UPDATE transfers SET source_balance = NULL WHERE {entry('pay-2')}"],
        {"posted_without_balances": 1},
        ["40 EUR from alice to bob"],
        id="a posted transfer without a balance",
    ),
    pytest.param(
        ["ALTER TABLE transfers DROP CONSTRAINT transfers_sides_check",
         f"UPDATE transfers SET destination = 'alice' WHERE {entry('last')}"],
        {"sides_equal": 1, "balance_not_the_sum": 2, "balance_differs": 1, "time_steps_back": 1, "version_repeated": 1},
        ["1 EUR from alice to alice"],
        id="a transfer to itself",
    ),
    pytest.param(
        ["ALTER TABLE transfers DROP CONSTRAINT transfers_amount_check",
         f"UPDATE transfers SET amount = -1 WHERE {entry('too-much')}"],
        {"amount_not_positive": 1},
        ["-1 EUR from carol to alice"],
        id="an amount below zero",
    ),
    pytest.param(
        [f"""UPDATE transfers SET destination_balance = -destination_balance, source_balance = {2**63 - 1}
             WHERE {entry('edge')}"""],
        {"balance_not_the_sum": 4},
        ["account mint, transfer", "account vault, transfer"],
        id="numbers whose sum does not fit",
    ),
]  # fmt: skip
