"""What an owner may do to events that have positions: statements, the findings they are, and what is said of them."""

import pytest

from tests.audit.planted import KEY, copied, entry
from tests.audit.traffic import ACCOUNTS

OF_BOOKS = f"ledger_id = {KEY}"
# Some way behind the first position, so that something lies before and behind.
NUMBER = 5


def at(condition: str, number: int = NUMBER) -> str:
    """Return the condition that is true of one row of the feed: of those that *condition* is true of, at a place."""
    return f"""ctid = (SELECT ctid FROM feed WHERE {OF_BOOKS} AND {condition}
                       ORDER BY position OFFSET {number} LIMIT 1)"""


CHANGE = at("change IS NOT NULL")
BATCH = at("transfers IS NOT NULL")
LAST = f"ctid = (SELECT ctid FROM feed WHERE {OF_BOOKS} ORDER BY position DESC LIMIT 1)"
LATER = at("types = 1 AND size = 1", 2 * NUMBER)
# A batch of several.
MANY = at("size > 1", 0)
DOUBLED = f"""
    INSERT INTO feed
    SELECT f.ledger_id, h.position + f.size, f.size, f.types, f.posted_at, h.peak, f.transfers, f.account, f.change,
           sha256(h.link || int8send(h.ledger_id) || int8send(h.position + f.size) || sha256(convert_to((
               SELECT string_agg(transfer_text(t), E'\\n' ORDER BY i.place)
               FROM unnest(f.transfers) WITH ORDINALITY AS i (id, place) JOIN transfers AS t ON t.id = i.id
           ), 'UTF8')))
    FROM feed AS f JOIN feed_heads AS h USING (ledger_id) WHERE f.{BATCH}"""
HEAD = f"""
    UPDATE feed_heads SET position = f.position, link = f.link FROM feed AS f
    WHERE feed_heads.{OF_BOOKS} AND f.{LAST}"""
LINK, GAP, DIFFERS = ({"link_differs": 1}, {"feed_gap": 1}, {"feed_differs": 1})
# An account on which nothing has ever moved.
IDLE = f"{OF_BOOKS} AND id = 'idle'"
INDEXED = f"ctid = (SELECT ctid FROM feed_accounts WHERE {OF_BOOKS} AND account = 'alice' ORDER BY position LIMIT 1)"


def own_column(name: str, value: str, shown: str, *, account: str = "idle") -> object:
    """Return the case of an account's own column that is changed, and how that is shown."""
    return pytest.param(
        [f"UPDATE accounts SET {name} = {value} WHERE {OF_BOOKS} AND id = '{account}'"],
        {"account_differs": 1},
        [f"account {account}: {name} is {shown}, its newest event, position "],
        id=f"the {name} of {account}",
    )


TAMPERED = [
    pytest.param(
        [f"""UPDATE transfers SET metadata = '{{ }}' WHERE {entry('pay-2')}"""],
        LINK,
        ["the link does not fit what it covers, transfers: 0"],
        id="one blank in the metadata of a transfer",
    ),
    pytest.param(
        [f"UPDATE transfers SET description = '' WHERE {entry('pay-2')}"], LINK, ["the link"], id="an empty description"
    ),
    pytest.param(
        [f"UPDATE transfers SET fingerprint = set_byte(fingerprint, 31, 1) WHERE {entry('too-much')}"],
        LINK,
        ["the link"],
        id="one byte of what a refused request was",
    ),
    pytest.param(
        [f"""UPDATE transfers SET refusal_request_id = 'x' WHERE {entry('too-high')}"""],
        LINK,
        ["the link"],
        id="the request that was refused",
    ),
    pytest.param(
        [f"UPDATE feed SET change = replace(change::text, 'EUR', 'EUr')::json WHERE {CHANGE}"],
        LINK | {"account_differs": 1},
        ["the link does not fit what it covers, account.", "currency is EUR, its newest event, position"],
        id="one letter of an account that was opened",
    ),
    pytest.param(
        [f"UPDATE feed SET posted_at = posted_at - interval '1 microsecond' WHERE {CHANGE}"],
        LINK | DIFFERS,
        ["the link does not fit what it covers, account."],
        id="the instant of a change",
    ),
    pytest.param(
        [f"UPDATE feed SET account = 'alicf' WHERE {CHANGE}"],
        LINK | DIFFERS | {"account_missing": 1, "account_untold": 1, "event_not_indexed": 1, "index_differs": 1},
        ["account.created of alicf"],
        id="whose change it was",
    ),
    pytest.param(
        [f"UPDATE feed SET types = types | 2 WHERE {BATCH}"],
        DIFFERS,
        ["another size, type, instant or account"],
        id="a type",
    ),
    pytest.param(
        [f"UPDATE feed SET posted_at = posted_at - interval '1 microsecond' WHERE {BATCH}"],
        DIFFERS | {"transfer_untold": 1},
        ["told 0 times"],
        id="the instant of a batch",
    ),
    pytest.param(
        [f"UPDATE feed SET link = set_byte(link, 0, get_byte(link, 0) # 1) WHERE {BATCH}"],
        {"link_differs": 2},
        ["the link"],
        id="one bit of a link, which the next one does not follow",
    ),
    pytest.param(
        [f"UPDATE feed SET transfers = ARRAY[transfers[2], transfers[1]] || transfers[3:] WHERE {MANY}"],
        LINK | {"event_not_indexed": 2, "index_differs": 2},
        ["transfers: "],
        id="two transfers of a batch change places",
    ),
    pytest.param(
        [f"""UPDATE feed SET transfers = other.transfers, posted_at = other.posted_at, types = other.types
             FROM feed AS other WHERE feed.{BATCH} AND other.{LATER}"""],
        LINK | DIFFERS | {"transfer_untold": 1, "transfer_told_twice": 1},
        ["told 2 times"],
        id="a batch in the place of another",
    ),
    pytest.param(
        [f"DELETE FROM feed WHERE {BATCH}"],
        GAP | LINK | {"transfer_untold": 1},
        ["its row begins behind position"],
        id="a batch is removed",
    ),
    pytest.param(
        [f"DELETE FROM feed WHERE {CHANGE}"],
        GAP | LINK | {"account_untold": 1, "index_differs": 1},
        ["its row begins"],
        id="a change is removed",
    ),
    pytest.param(
        [f"DELETE FROM feed WHERE {LAST}"],
        {"head_differs": 1, "transfer_untold": 1},
        ["the head is position"],
        id="the last batch is removed",
    ),
    pytest.param(
        [f"DELETE FROM feed WHERE {OF_BOOKS}"],
        {"head_differs": 1, "transfer_untold": None, "account_untold": ACCOUNTS, "index_differs": None},
        ["told 0 times"],
        id="all of it is removed",
    ),
    pytest.param(
        [f"DELETE FROM transfers WHERE {entry('too-much')}"],
        LINK | {"feed_without_transfer": 1, "index_differs": 2},
        ["there is no transfer"],
        id="a refused transfer is removed",
    ),
    pytest.param(
        [copied("too-much").replace("uuidv7(), idempotency_key", "uuidv7(), 'new'")],
        {"transfer_untold": 1},
        ["told 0 times"],
        id="a transfer is added",
    ),
    pytest.param(
        [DOUBLED, HEAD],
        {"transfer_told_twice": 1},
        ["told 2 times"],
        id="a batch is told again, with links that fit",
    ),
    pytest.param(
        [DOUBLED.replace("f.posted_at,", "f.posted_at - interval '1 microsecond',"), HEAD],
        DIFFERS,
        ["another size, type, instant or account"],
        id="a batch is told again, as of another instant",
    ),
    pytest.param(
        [f"UPDATE feed_heads SET link = '' WHERE {OF_BOOKS}"],
        {"head_differs": 1},
        ["with link ,"],
        id="the link of the head",
    ),
    pytest.param(
        [f"UPDATE feed_heads SET position = position + 1 WHERE {OF_BOOKS}"],
        {"head_differs": 1},
        ["the head is position"],
        id="the position of the head",
    ),
    own_column("currency", "'USD'", "USD"),
    own_column("floor", "NULL", "null"),
    own_column("ceiling", "7", "7"),
    own_column("closed", "true", "true"),
    own_column("metadata", """'{"a": "c"}'""", '{"a": "c"}', account="alice"),
    own_column("metadata", "'{ }'", "{ }"),
    own_column("created_at", "'2020-01-02T03:04:05Z'", "2020-01-02T03:04:05.000000Z"),
    own_column("limits_version", "limits_version + 1", "9", account="bob"),
    pytest.param(
        [f"DELETE FROM accounts WHERE {IDLE}"],
        {"account_missing": 1},
        ["there is no account idle"],
        id="an account is removed on which nothing has moved",
    ),
    pytest.param(
        [f"INSERT INTO accounts (ledger_id, id, currency, created_at) VALUES ({KEY}, 'new', 'EUR', now())"],
        {"account_untold": 1},
        ["account new: no event tells that it was opened"],
        id="an account is added",
    ),
    pytest.param(
        [f"DELETE FROM feed_accounts WHERE {INDEXED}"],
        {"event_not_indexed": 1},
        ["account alice: the index of its events lacks position "],
        id="a row of the index by accounts is removed",
    ),
    pytest.param(
        [f"INSERT INTO feed_accounts SELECT ledger_id, 'idle', position FROM feed_accounts WHERE {INDEXED}"],
        {"index_differs": 1},
        ["account idle: the index of its events has position "],
        id="a row of the index by accounts is added",
    ),
    pytest.param(
        [f"INSERT INTO feed_accounts SELECT ledger_id, 'alice', position FROM feed WHERE {LATER}"],
        {"index_differs": 1},
        ["account alice: the index of its events has position "],
        id="the index by accounts leads to a transfer",
    ),
]  # fmt: skip

# The same of events that wait for their positions.
PAID = f"(SELECT ARRAY[id] FROM transfers WHERE {entry('pay-2')})"
UNTOLD = [
    pytest.param(
        [f"DELETE FROM outbox WHERE {OF_BOOKS} AND transfers = {PAID}"],
        {"transfer_untold": 1},
        ["told 0 times"],
        id="a waiting batch is removed",
    ),
    pytest.param(
        [f"INSERT INTO outbox (ledger_id, posted_at, transfers) SELECT {KEY}, now(), {PAID}"],
        {"transfer_told_twice": 1},
        ["told 2 times"],
        id="a batch waits twice",
    ),
    pytest.param(
        [f"UPDATE accounts SET closed = true WHERE {IDLE}"],
        {"account_differs": 1},
        ["account idle: closed is true, its newest event, which waits for a position, says false"],
        id="an account whose change waits",
    ),
]  # fmt: skip
