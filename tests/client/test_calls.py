"""What each call of both clients sends and returns, against the service."""

import asyncio
import logging
import math
import pickle
import pydoc
import sys
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from tallystick_client import (
    AccountItem,
    AsyncTallystick,
    Conditions,
    FollowUp,
    Posted,
    ProblemError,
    RefusedError,
    Tallystick,
    TransferItem,
)
from tests.client.calling import Asked, Caller, calling
from tests.support.client import Client
from tests.support.service import Service


async def test_accounts(caller: Caller) -> None:
    """Accounts are opened once, read, changed and listed over all pages."""
    for _ in range(2):
        opened = await caller(lambda c: c.accounts.create("bob", "EUR", floor=None, metadata={"tier": "gold"}))
        assert (opened.id, opened.floor, opened.metadata, opened.created_at.tzinfo) == (
            "bob",
            None,
            {"tier": "gold"},
            UTC,
        )
    changed = await caller(lambda c: c.accounts.update("bob", ceiling=5, metadata=None, if_version=opened.version))
    assert (changed.ceiling, changed.floor, changed.metadata) == (5, None, {})
    with pytest.raises(ProblemError) as caught:
        await caller(lambda c: c.accounts.update("bob", closed=True, if_version=opened.version))
    assert (caught.value.status, caught.value.code) == (412, "precondition_failed")
    assert await caller(lambda c: c.accounts.get("bob", min_version=changed.version)) == changed
    many = [AccountItem(f"many:{number:03}", "EUR") for number in range(120)]
    results = await caller(lambda c: c.accounts.create_many([*many, AccountItem("bob", "USD")]))
    assert [result.status for result in results] == [201] * 120 + [409]
    assert (
        results[120].problem.fields == ("currency", "floor", "ceiling") or results[120].problem.code == "account_exists"
    )
    listed = await caller.take(lambda c: c.accounts.list(prefix="many:"))
    assert [account.id for account in listed] == [item.id for item in many]


async def test_transfers(caller: Caller) -> None:
    """A transfer is posted once under its key, stays refused under another, and is found."""
    before = datetime.now(UTC)
    paid = await caller(
        lambda c: c.transfers.create("alice", "shop", 250, "EUR", idempotency_key="order-1", reference="o1")
    )
    again = await caller(
        lambda c: c.transfers.create("alice", "shop", 250, "EUR", idempotency_key="order-1", reference="o1")
    )
    assert (paid.source_balance, paid.kind, paid.replayed) == (750, "transfer", False)
    assert again == msgspec.structs.replace(paid, replayed=True)
    assert abs(paid.created_at - before) < timedelta(minutes=1)
    with pytest.raises(RefusedError) as caught:
        await caller(
            lambda c: c.transfers.create("alice", "shop", 5_000, "EUR", conditions=Conditions(source_version=99))
        )
    assert (caught.value.code, caught.value.retry, caught.value.outcome) == ("condition_failed", "new_key", "refused")
    read = await caller(lambda c: c.transfers.get(paid.id))
    assert read == await caller(lambda c: c.idempotency_keys.get("order-1"))
    assert (read.reversed, read.id) == (0, paid.id)
    [listed] = await caller.take(
        lambda c: c.transfers.list(reference="o1", account="shop", since=before - timedelta(1))
    )
    assert msgspec.convert(listed, Posted, from_attributes=True) == paid


async def test_bulks_and_previews(caller: Caller) -> None:
    """Items get keys before they are sent; an atomic set is posted whole or not at all; a preview moves nothing."""
    items = [
        TransferItem("alice", "shop", 100, "EUR", hold=True, key="b1", effective_at=datetime(2026, 1, 1, tzinfo=UTC)),
        FollowUp("capture", parent_key="b1", amount=60, release_rest=False),
        FollowUp("void", parent_key="b1"),
    ]
    for replayed in (False, True):
        results = await caller(lambda c: c.transfers.create_many(items, atomic=True))
        assert [(result.status, result.transfer.kind) for result in results] == [
            (201, "hold"),
            (201, "capture"),
            (201, "void"),
        ]
        assert (len(results), results[0].replayed) == (3, replayed)
    failed = await caller(
        lambda c: c.transfers.create_many(
            [TransferItem("alice", "shop", 1, "EUR"), TransferItem("alice", "shop", 9_999, "EUR")], atomic=True
        )
    )
    assert [result.problem.code for result in failed] == ["linked_failed", "insufficient_funds"]
    preview = await caller(lambda c: c.transfers.preview("alice", "shop", 40, "EUR"))
    assert (preview.status, preview.transfer.source_balance) == (201, 900)
    hold = await caller(lambda c: c.idempotency_keys.get("b1"))
    assert (hold.hold.state, hold.hold.captured, hold.hold.remaining) == ("voided", 60, 0)
    assert (await caller(lambda c: c.accounts.get("alice"))).balance == 940


async def test_statements(caller: Caller, books: Client) -> None:
    """Entries, balances and statements have instants in UTC, and add up; so does the trial balance."""
    for amount in range(1, 131):
        await books.transfer("alice", "shop", amount // 100 + 1)
    entries = await caller.take(lambda c: c.accounts.entries("shop"))
    assert [entry.version for entry in entries] == list(range(131, 1, -1))
    month = {"since": entries[-1].created_at, "until": datetime.now(timezone(timedelta(hours=5)))}
    statement = await caller(lambda c: c.accounts.statement("shop", **month, by="effective"))
    total = sum(entry.amount for entry in statement.entries)
    assert statement.opening_balance + total == statement.closing_balance == entries[0].balance
    assert (statement.since, statement.entries[0].effective_at) == (entries[-1].created_at, entries[-1].created_at)
    past = await caller(lambda c: c.accounts.balance("shop", entries[-1].created_at, by="created"))
    assert (past.balance, past.at) == (1, entries[-1].created_at)
    [euros] = (await caller(lambda c: c.balances())).data
    assert (euros.net, euros.accounts, euros.credit) == (0, 3, 1_000)
    assert (await caller(lambda c: c.balances(prefix="shop"))).data[0].net == entries[0].balance


async def test_webhook_endpoints(caller: Caller) -> None:
    """Endpoints are created, changed, tested, replayed and removed; a secret is shown once, and never by repr."""
    made = await caller(lambda c: c.webhook_endpoints.create("http://127.0.0.1:1/", types=["transfer.posted"]))
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    changed = await caller(lambda c: c.webhook_endpoints.update(made.id, description="x", types=[], state="disabled"))
    assert (changed.description, changed.types, changed.disabled_reason) == ("x", [], "requested")
    assert await caller.take(lambda c: c.webhook_endpoints.list()) == [changed]
    assert (await caller(lambda c: c.webhook_endpoints.rotate_secret(made.id))).secret != made.secret
    assert not (await caller(lambda c: c.webhook_endpoints.test(made.id))).delivered
    assert (await caller(lambda c: c.webhook_endpoints.replay(made.id, 1))).position == 0
    assert await caller.take(lambda c: c.webhook_endpoints.deliveries(made.id)) == []
    assert await caller.take(lambda c: c.webhook_endpoints.undelivered(made.id)) == []
    assert (await caller(lambda c: c.webhook_endpoints.delete(made.id))).deleted
    with pytest.raises(ProblemError, match="404 webhook_endpoint_not_found"):
        await caller(lambda c: c.webhook_endpoints.get(made.id))


async def test_api_keys(caller: Caller, service: Service, kind: str) -> None:
    """A key is created with a token, which works until it is replaced or the key is revoked."""
    made = await caller(
        lambda c: c.api_keys.create(
            "read", description="reports", accounts=["shop"], rate="100/s", expires_at=datetime(2100, 1, 1, tzinfo=UTC)
        )
    )
    assert (made.role, made.accounts, made.rate, made.expires_at.year) == ("read", ["shop"], "100/s", 2100)
    assert made.token not in repr(made)
    async with calling(kind, service.url, made.token) as narrow:
        assert (await narrow(lambda c: c.accounts.get("shop"))).balance == 0
    changed = await caller(lambda c: c.api_keys.update(made.id, burst=7, expires_at=None))
    assert (changed.burst, changed.expires_at, changed.token) == (7, None, None)
    assert (await caller(lambda c: c.api_keys.rotate(made.id, overlap_seconds=60))).token != made.token
    assert made.id in [key.id for key in await caller.take(lambda c: c.api_keys.list())]
    assert (await caller(lambda c: c.api_keys.revoke(made.id))).revoked_at is not None
    assert (await caller(lambda c: c.api_keys.get(made.id))).revoked_at is not None


async def test_what_is_told_of_the_ledger(caller: Caller) -> None:
    """The limits and the auditor's findings can be read."""
    limits = await caller(lambda c: c.limits())
    assert (limits.policies[0].name, limits.concurrency.running) == ("default", 1)
    assert (await caller(lambda c: c.integrity())).head.position >= 0


ID = "0198b2c4-0000-7000-8000-000000000001"
TOKEN = f"tsk_1_{'0' * 16}_{'0' * 72}"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (lambda c: c.accounts.get(""), "an id must not be empty"),
        (lambda c: c.api_keys.revoke(TOKEN), "an API key is secret"),
        (lambda c: c.accounts.list(prefix=TOKEN), "an API key is secret"),
        (lambda c: c.accounts.entries("alice", since=datetime(2026, 1, 1)), "needs a time zone"),  # noqa: DTZ001
        (lambda c: c.transfers.void(ID, idempotency_key="a\r\nb"), "visible ASCII"),
        (lambda c: c.transfers.create("alice", "shop", 1, "EUR", idempotency_key=""), "visible ASCII"),
        (lambda c: c.transfers.create_many([TransferItem("alice", "shop", 1, "EUR", key="é")]), "visible ASCII"),
        # Encoded as null, each of these would mean all that is left, or no limit.
        (lambda c: c.transfers.capture(ID, math.nan), "Out of range"),
        (lambda c: c.transfers.reverse(ID, math.inf), "Out of range"),
        (lambda c: c.transfers.create_many([FollowUp("capture", parent=ID, amount=math.nan)]), "Out of range"),  # type: ignore[arg-type]
        (lambda c: c.accounts.create("bob", "EUR", floor=math.nan), "Out of range"),
        (lambda c: c.accounts.update("alice", ceiling=-math.inf), "Out of range"),
    ],
)
async def test_wrong_arguments(asked: Asked, told: str, caller: Caller) -> None:
    """Invalid arguments are refused before anything is sent."""
    with pytest.raises(ValueError, match=told):
        await caller(asked)


async def test_a_request_is_what_was_asked(service: Service, books: Client) -> None:
    """Changes to an argument after the call are not sent."""
    assert books.token is not None
    metadata = {"order": "1"}
    async with AsyncTallystick(service.url, books.token) as ledger:
        payment = ledger.transfers.create("alice", "shop", 1, "EUR", metadata=metadata)
        metadata["order"] = "2"
        assert (await payment).metadata == {"order": "1"}


# Pays and forks; each process keeps paying, and counts answers that belong to the other.
FORKS = """
import os, sys
from tallystick_client import Tallystick
with Tallystick(sys.argv[1], sys.argv[2]) as ledger:
    def pay(name):
        return ledger.transfers.create("alice", "shop", 1, "EUR", reference=name).reference != name
    assert not pay("before")
    child = os.fork()
    wrong = sum(pay(f"{child == 0}-{number}") for number in range(20))
    if child == 0:
        os._exit(wrong)
    sys.exit(wrong or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_a_forked_process_has_its_own_connections(service: Service, books: Client) -> None:
    """A process forked with an open client gets the answers to its own requests."""
    assert books.token is not None
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKS, service.url, books.token)
    assert await asyncio.wait_for(process.wait(), 60) == 0


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a?b", "a%2Fb", "é", "a b"])
async def test_names_stay_names(name: str, caller: Caller) -> None:
    """No id or key can change the path."""
    with pytest.raises(ProblemError) as caught:
        await caller(lambda c: c.accounts.get(name))
    assert caught.value.code == "account_not_found"
    with pytest.raises(ProblemError) as caught:
        await caller(lambda c: c.idempotency_keys.get(name))
    assert caught.value.code in ("idempotency_key_not_found", "invalid_request")


@pytest.mark.parametrize(
    ("url", "key", "options", "told"),
    [
        ("ftp://ledger", "k", {}, "must look like"),
        ("http://user:secret@ledger", "k", {}, "must not contain a user"),
        ("http://ledger?x=1", "k", {}, "must look like"),
        ("http://ledger:99999", "k", {}, "must look like"),
        ("http://ledger:x", "k", {}, "not valid"),
        ("ledger:8080", "k", {}, "must look like"),
        ("http://ledger", "", {}, "visible ASCII"),
        ("http://ledger", "a\nb", {}, "visible ASCII"),
        ("http://ledger", "k", {"deadline_seconds": 0}, "above 0"),
        ("http://ledger", "k", {"deadline_seconds": math.inf}, "above 0"),
    ],
)
def test_wrong_clients(url: str, key: str, options: dict[str, float], told: str) -> None:
    """Invalid options are refused, and the error repeats no secret."""
    with pytest.raises(ValueError, match=told) as caught:
        Tallystick(url, key, **options)  # type: ignore[arg-type]  # few, by name
    assert "secret" not in str(caught.value)


async def test_no_secret_is_shown(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """Neither repr nor a log of any level shows the API key."""
    with caplog.at_level(logging.DEBUG):
        await caller(lambda c: c.accounts.get("alice"))
    key = caller.client._driver._headers["Authorization"].removeprefix("Bearer ")
    shown = [repr(caller.client), repr(caller.client._driver._http), caplog.text]
    assert [text for text in shown if key in text] == []
    assert caplog.text


def test_help() -> None:
    """`help` shows a method's parameters, result and description."""
    method = Tallystick("http://ledger", "k").accounts.get
    shown = pydoc.plain(pydoc.render_doc(method))
    assert "get(id: str, *, min_version: int | None = None) -> tallystick_client.answers.Account" in shown
    assert "Return an account" in shown


async def test_errors_travel(caller: Caller) -> None:
    """An error can be pickled."""
    with pytest.raises(RefusedError) as caught:
        await caller(lambda c: c.transfers.create("alice", "nobody", 1, "EUR"))
    back = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 -- our own
    assert (str(back), back.problem) == (str(caught.value), caught.value.problem)
    assert str(back) == "404 account_not_found: The destination account does not exist."
