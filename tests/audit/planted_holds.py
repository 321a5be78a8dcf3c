"""Errors planted in what `play_holds` left: statements, the findings they are, and what is said of them."""

import pytest

from tests.audit.planted import KEY, entry


def identity(key: str) -> str:
    """Return the id of the transfer that was posted under a key."""
    return f"(SELECT id FROM transfers WHERE {entry(key)})"


def progress(key: str, change: str) -> str:
    """Return the statement that changes what is said of a hold or a reversed transfer."""
    return f"UPDATE transfer_progress SET {change} WHERE ledger_id = {KEY} AND id = {identity(key)}"


def row(key: str, change: str) -> str:
    """Return the statement that changes a row."""
    return f"UPDATE transfers SET {change} WHERE {entry(key)}"


def account(name: str, change: str) -> str:
    """Return the statement that changes an account."""
    return f"UPDATE accounts SET {change} WHERE ledger_id = {KEY} AND id = '{name}'"


UNCHECKED = "ALTER TABLE transfers DROP CONSTRAINT transfers_outcome_check"
FREE = "ALTER TABLE transfer_progress DROP CONSTRAINT transfer_progress_amounts_check"
STATELESS = "ALTER TABLE transfer_progress DROP CONSTRAINT transfer_progress_state_check"
# The clock of the books, moved on so many seconds.
LATER = """DO $do$ BEGIN EXECUTE format(
    'CREATE OR REPLACE FUNCTION ledger_clock() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz %L $$',
    ledger_clock() + interval '{} s'); END $do$"""

PLANTED_HOLDS = [
    pytest.param([LATER.format(25)], {}, [], id="a hold that is due for a minute"),
    pytest.param(
        [LATER.format(31)],
        {"hold_not_swept": 1},
        ["12 from buyer to shop"],
        id="a hold that is due for longer",
    ),
    pytest.param(
        [account("buyer", "held_out = held_out + 1")],
        {"held_not_the_holds": 1, "held_differs": 1},
        ["account buyer: held_out 43 and held_in 0, its open holds sum to 42 and 0"],
        id="more held than there are holds",
    ),
    pytest.param(
        [account("shop", "held_in = held_in - 1")],
        {"held_not_the_holds": 1, "held_differs": 1},
        ["account shop: held_out 0 and held_in 41, its rows leave 0 and 42"],
        id="less held than there are holds",
    ),
    pytest.param(
        [account("idle", "held_in = 7")],
        {"held_not_the_holds": 1},
        ["account idle: held_out 0 and held_in 7, its open holds sum to 0 and 0"],
        id="held by an account that no hold has touched",
    ),
    pytest.param(
        [row("open", "held = held + 1")],
        {"held_wrong": 1, "held_differs": 2},
        ["50 EUR from buyer to shop, held '51'", "account shop: held_out 0 and held_in 42, its rows leave 0 and 43"],
        id="a hold that reserves more than its amount",
    ),
    pytest.param(
        [row("captured-all", "held = held + 1")],
        {"held_wrong": 1, "remaining_differs": 1, "state_differs": 1, "hold_goes_on": 1, "held_differs": 2},
        ["40 EUR from buyer to shop, held '-39'", ": open, said to be captured"],
        id="a capture that releases less than it moves",
    ),
    pytest.param(
        [row("voided-void", "held = NULL")],
        {
            "held_wrong": 1,
            "remaining_differs": 1,
            "state_differs": 1,
            "hold_goes_on": 1,
            "floor_broken": 1,
            "held_differs": 2,
        },
        [
            "30 EUR from buyer to shop, held NULL",
            ": goes on after its end, 30 remaining",
            "left 31 and 60 held, below the floor 0",
        ],
        id="a void that releases nothing",
    ),
    pytest.param(
        [row("last", "held = 1")],
        {"held_wrong": 1, "held_differs": 2},
        ["1 EUR from alice to carol, held '1'"],
        id="a transfer that reserves",
    ),
    pytest.param(
        [row("last", "moves = false")],
        {"moves_wrong": 1, "balance_not_the_sum": 2},
        ["1 EUR from alice to carol, moves 'f'", "with 0 moved"],
        id="a transfer that moves nothing",
    ),
    pytest.param(
        [row("due", "moves = true")],
        {"moves_wrong": 1, "balance_not_the_sum": 2},
        ["12 EUR from buyer to shop, moves 't'"],
        id="a hold that moves",
    ),
    pytest.param(
        [row("last", f"parent = {identity('sale')}")],
        {"parent_wrong": 1},
        ["1 EUR from alice to carol, parent '"],
        id="a transfer with a parent",
    ),
    pytest.param(
        [row("sale-back", "parent = NULL")],
        {"parent_wrong": 1, "reversed_differs": 1},
        ["30 EUR from shop to buyer, parent NULL", ": 70 reversed, said to be 100"],
        id="a reversal of nothing",
    ),
    pytest.param(
        [row("open", "expires_at = NULL")],
        {"expires_at_wrong": 1, "progress_differs": 1},
        [", expires at NULL", ": 50 from buyer to shop, said to be 50 from buyer to shop until"],
        id="a hold that never expires",
    ),
    pytest.param(
        [row("due", "expires_at = created_at")],
        {"expires_at_wrong": 1, "progress_differs": 1},
        ["12 EUR from buyer to shop at"],
        id="a hold that expires at once",
    ),
    pytest.param(
        [row("last", "expires_at = created_at + interval '1 s'")],
        {"expires_at_wrong": 1},
        ["1 EUR from alice to carol at"],
        id="a transfer that expires",
    ),
    pytest.param(
        [row("sale-back", "amount_asked = 31")],
        {"asked_wrong": 1},
        ["30 EUR from shop to buyer, asked for '31'"],
        id="a reversal of another amount than was asked for",
    ),
    pytest.param(
        [row("last", "release_rest = true")],
        {"asked_wrong": 1},
        ["asked for NULL, releases the rest 't'"],
        id="a transfer that releases",
    ),
    pytest.param(
        [row("captured-less-part", "release_rest = false")],
        {"held_wrong": 1},
        ["25 EUR from buyer to shop, held '-60'"],
        id="a capture that keeps the rest",
    ),
    pytest.param(
        [row("sale", "effective_at = created_at + interval '1 s'")],
        {"effective_later": 1},
        ["100 EUR from buyer to shop at"],
        id="a date in the future",
    ),
    pytest.param(
        [UNCHECKED, row("last", "currency = NULL")],
        {"posted_incomplete": 1},
        ["1  from alice to carol"],
        id="a posted transfer without a currency",
    ),
    pytest.param(
        [row("sale-back", "parent = uuidv7()")],
        {"parent_missing": 1, "reversed_differs": 1},
        [": there is no posted transfer"],
        id="a parent that is missing",
    ),
    pytest.param(
        [row("sale-back", f"parent = {identity('no-5')}")],
        {"parent_missing": 1, "reversed_differs": 1},
        [": there is no posted transfer"],
        id="a parent that was refused",
    ),
    pytest.param(
        [row("sale-back", f"parent = {identity('open')}")],
        {"parent_unfit": 1, "reversed_differs": 2},
        [": of a hold, ", ": 30 reversed, said to be 0"],
        id="a reversal of a hold",
    ),
    pytest.param(
        [row("voided-void", f"parent = {identity('sale')}")],
        {"parent_unfit": 1, "parent_later": 1, "remaining_differs": 1, "state_differs": 1},
        [": of a transfer, ", ": open, said to be voided"],
        id="a void of a transfer",
    ),
    pytest.param(
        [row("sale-back", f"parent = {identity('guest-capture')}")],
        {"parent_elsewhere": 1, "parent_later": 1, "progress_missing": 1, "reversed_differs": 1},
        [": EUR from shop to buyer, its parent", ": EUR from guest to jar", ": nothing says what has become of it"],
        id="a reversal elsewhere",
    ),
    pytest.param(
        [row("voided", "created_at = created_at + interval '1 h'")],
        {"time_steps_back": 2, "parent_later": 1, "version_out_of_step": 2},
        ["void ", ", its parent ", ", of which 1 holds due, after"],
        id="a void before its hold",
    ),
    pytest.param(
        [
            row("captured", "expires_at = created_at + interval '1 microsecond'"),
            progress("captured", "expires_at = (SELECT expires_at FROM transfers WHERE id = transfer_progress.id)"),
        ],
        {"hold_outlived": 1},
        ["capture ", ", the hold "],
        id="a capture of a hold that was gone",
    ),
    pytest.param(
        [
            row("swept", "expires_at = expires_at + interval '1 h'"),
            progress("swept", "expires_at = expires_at + interval '1 h'"),
        ],
        {"hold_cut_short": 1, "version_out_of_step": 1},
        ["expiry ", ", the hold "],
        id="an expiry before its instant",
    ),
    pytest.param(
        [f"DELETE FROM transfer_progress WHERE id = {identity('voided')}"],
        {"progress_missing": 1},
        ["hold ", ": nothing says what has become of it"],
        id="a forgotten hold",
    ),
    pytest.param(
        [f"DELETE FROM transfer_progress WHERE id = {identity('sale')}"],
        {"progress_missing": 1},
        ["transfer ", ": nothing says what has become of it"],
        id="a forgotten reversal",
    ),
    pytest.param(
        [progress("voided", "id = uuidv7()")],
        {"progress_missing": 1, "progress_without_transfer": 1},
        [": was not posted, but is said to have become something"],
        id="what has become of nothing",
    ),
    pytest.param(
        [progress("voided", "amount = amount + 1")],
        {"progress_differs": 1},
        [", said to be 31 from buyer to shop until"],
        id="another amount",
    ),
    pytest.param(
        [progress("voided", "source = 'till'")],
        {"progress_differs": 1},
        [", said to be 30 from till to shop until"],
        id="another account",
    ),
    pytest.param(
        [progress("voided", "expires_at = expires_at + interval '1 s'")],
        {"progress_differs": 1},
        [": 30 from buyer to shop until"],
        id="another instant",
    ),
    pytest.param(
        [progress("captured-less", "captured = captured - 1")],
        {"captured_differs": 1},
        [": 25 captured, said to be 24"],
        id="captured less than it was",
    ),
    pytest.param(
        [progress("open", "remaining = remaining - 1")],
        {"held_not_the_holds": 2, "remaining_differs": 1},
        ["account buyer: held_out 42 and held_in 0, its open holds sum to 41 and 0", ": 30 remaining, said to be 29"],
        id="remaining less than it does",
    ),
    pytest.param(
        [progress("voided", "state = 'expired'")],
        {"state_differs": 1},
        [": voided, said to be expired"],
        id="voided and said to be expired",
    ),
    pytest.param(
        [STATELESS, progress("open", "state = 'captured'")],
        {"state_differs": 1},
        [": open, said to be captured"],
        id="open and said to be captured",
    ),
    pytest.param(
        [STATELESS, progress("sale", "state = 'captured'")],
        {"state_differs": 1},
        [": no hold, said to be captured"],
        id="a transfer and said to be captured",
    ),
    pytest.param(
        [progress("captured-all", "reversed = 14")],
        {"reversed_differs": 1},
        ["capture ", ": 15 reversed, said to be 14"],
        id="reversed less than it was",
    ),
    pytest.param(
        [FREE, row("captured-back", "amount = 41"), progress("captured-all", "reversed = 41")],
        {"asked_wrong": 1, "balance_not_the_sum": 2, "reversed_exceeds": 1},
        ["41 EUR from shop to buyer, asked for '15'", ": 41 reversed of 40"],
        id="more reversed than moved",
    ),
    pytest.param(
        [
            FREE,
            STATELESS,
            row("open-part", "amount = 51, held = -51"),
            progress("open", "captured = 51, remaining = -1, state = 'captured'"),
        ],
        {
            "held_not_the_holds": 2,
            "asked_wrong": 1,
            "balance_not_the_sum": 2,
            "hold_exceeded": 1,
            "held_negative": 14,
            "held_differs": 2,
        },
        [": of 50, 51 captured and -1 remaining", ": held_out -1, held_in 0"],
        id="more captured than held",
    ),
    pytest.param(
        [row("captured-twice-1", "release_rest = true")],
        {"hold_goes_on": 1},
        [": goes on after its end, 0 remaining"],
        id="a capture after the one that ends",
    ),
    pytest.param(
        [account("buyer", "floor = 2")],
        {"floor_broken": 1, "account_differs": 1},
        ["account buyer, transfer", "left 31 and 30 held, below the floor 2"],
        id="a floor below what holds reserve",
    ),
    pytest.param(
        [account("jar", "ceiling = 80, limits_version = 1")],
        {"ceiling_broken": 1, "account_differs": 1},
        ["account jar, transfer", "reached 0 and 90 held, above the ceiling 80"],
        id="a ceiling below what holds bring",
    ),
    pytest.param(
        [account("buyer", "version = version - 1")],
        {"version_behind": 1},
        ["account buyer: version 28, its last entries have 29"],
        id="an account behind its entries and holds",
    ),
    pytest.param(
        [row("after", "source_version = source_version - 1")],
        {"version_repeated": 1, "version_out_of_step": 1},
        ["version 26, of which 0 holds due, after 26", "version 26 is taken"],
        id="a version out of step",
    ),
]
