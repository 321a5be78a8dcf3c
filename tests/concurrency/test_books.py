"""The check of the books finds every kind of planted error."""

from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest

from tests.support.books import Operation, check_books
from tests.support.client import Answer
from tests.support.history import History
from tests.support.postgres import administer, create_database, drop_database
from tests.support.service import in_process

LEDGER = "canary"


@pytest.fixture(scope="module")
async def recorded(template: str) -> AsyncIterator[History]:
    """A history with the funding, transfers, a replay, a refusal and a reused key; no client is connected any more."""
    database_url = await create_database(template)
    history = History(database_url, LEDGER)
    async with in_process(database_url) as service:
        client = await service.client(LEDGER)
        await client.fund("alice", 100)
        await client.open("bob")
        for _ in range(2):
            await history.transfer(client, "pay", "alice", "bob", 60)
        await history.transfer(client, "pay", "alice", "bob", 61)
        await history.transfer(client, "too-much", "alice", "bob", 60)
        await history.transfer(client, "back", "bob", "alice", 10)
    assert [history.count(said) for said in ("posted", "reused", "refused")] == [3, 1, 1]
    yield history
    await drop_database(template, database_url)


async def test_true_books_pass(recorded: History) -> None:
    """The check passes books and answers that are right."""
    await recorded.check()


@pytest.mark.parametrize(
    ("statement", "law"),
    [
        pytest.param("UPDATE accounts SET balance = balance + 1 WHERE id = 'bob'", "sum to zero", id="a balance moves"),
        pytest.param(
            "UPDATE accounts SET balance = balance + CASE id WHEN 'bob' THEN 1 ELSE -1 END WHERE id <> 'world'",
            "fold of its entries",
            id="two balances move",
        ),
        pytest.param("DELETE FROM transfers WHERE idempotency_key = 'back'", "fold", id="the last transfer is lost"),
        pytest.param("DELETE FROM transfers WHERE idempotency_key = 'pay'", "continues", id="a transfer is lost"),
        pytest.param(
            "UPDATE transfers SET amount = 61 WHERE idempotency_key = 'pay'", "continues", id="an amount changes"
        ),
        pytest.param(
            "UPDATE transfers SET source_version = 2 WHERE idempotency_key = 'pay'", "continues", id="a version repeats"
        ),
        pytest.param("UPDATE accounts SET version = 2 WHERE id = 'alice'", "fold", id="a version falls back"),
        pytest.param("UPDATE accounts SET floor = 50 WHERE id = 'alice'", "floor", id="a floor is broken"),
        pytest.param(
            "ALTER TABLE transfers DROP CONSTRAINT transfers_idempotency_key_unique; "
            "INSERT INTO transfers SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid()))).* "
            "FROM transfers AS t WHERE idempotency_key = 'too-much'",
            "one row",
            id="a key is bound twice",
        ),
    ],
)
async def test_false_books_are_found(template: str, recorded: History, statement: str, law: str) -> None:
    """The check finds and names each planted error in the books."""
    books = await create_database(template, urlsplit(recorded.database_url).path[1:])
    for part in statement.split("; "):
        qualified = part.replace(" accounts ", " tallystick.accounts ").replace(" transfers ", " tallystick.transfers ")
        await administer(books, qualified)
    with pytest.raises(AssertionError, match=law):
        await check_books(books)
    await drop_database(template, books)


Mutation = Callable[[Operation], list[Operation]]


def _change(old: bytes, new: bytes) -> Mutation:
    def change(operation: Operation) -> list[Operation]:
        answer = operation.answer
        assert answer is not None
        if answer.status != 201 or answer.headers.get("Idempotent-Replayed"):
            return [operation]
        return [operation._replace(answer=answer._replace(body=answer.body.replace(old, new)))]

    return change


def _invent(operation: Operation) -> list[Operation]:
    return [operation, operation._replace(key=operation.key + "-lost")]


def _forget(operation: Operation) -> list[Operation]:
    return [] if operation.key == "back" else [operation]


def _deny(operation: Operation) -> list[Operation]:
    denial = Answer(503, {}, b'{"outcome":"not_applied"}')
    return [operation._replace(answer=denial)] if operation.key == "back" else [operation]


def _promise(operation: Operation) -> list[Operation]:
    return [operation._replace(answer=Answer(201, {}, b"{}"))] if operation.key == "too-much" else [operation]


def _refuse(operation: Operation) -> list[Operation]:
    refusal = Answer(409, {}, b'{"outcome":"refused","code":"insufficient_funds"}')
    return [operation._replace(answer=refusal)] if operation.key == "back" else [operation]


@pytest.mark.parametrize(
    ("mutate", "finding"),
    [
        pytest.param(_invent, "not in the books", id="an acknowledged transfer is missing"),
        pytest.param(_forget, "nobody asked for", id="a transfer came from nowhere"),
        pytest.param(_deny, "only ever answered not_applied", id="a transfer was denied and done"),
        pytest.param(_promise, "recorded insufficient_funds", id="a refusal was answered as posted"),
        pytest.param(_refuse, "recorded None", id="a posted transfer was answered as refused"),
        pytest.param(_change(b'"metadata":{}', b'"metadata": {}'), "answered", id="a replay differs"),
        pytest.param(_change(b'"source_balance":50', b'"source_balance":51'), "recorded", id="a balance differs"),
    ],
)
async def test_false_answers_are_found(recorded: History, mutate: Mutation, finding: str) -> None:
    """The check finds each kind of false answer."""
    history = History(recorded.database_url, LEDGER)
    history.operations = [changed for operation in recorded.operations for changed in mutate(operation)]
    with pytest.raises(AssertionError, match=finding):
        await history.check()
