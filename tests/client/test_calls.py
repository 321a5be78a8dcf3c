"""What each call sends and returns, by both clients, against the service."""

from datetime import UTC, datetime, timedelta

import pytest

from tallystick_client import (
    AccountItem,
    Conditions,
    ProblemError,
    RefusedError,
)
from tests.client.calling import Caller


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
    """A transfer is posted once under its key, refused for ever under another, and found."""
    before = datetime.now(UTC)
    paid = await caller(
        lambda c: c.transfers.create("alice", "shop", 250, "EUR", idempotency_key="order-1", reference="o1")
    )
    again = await caller(
        lambda c: c.transfers.create("alice", "shop", 250, "EUR", idempotency_key="order-1", reference="o1")
    )
    assert (paid, paid.source_balance, paid.kind) == (again, 750, "transfer")
    assert abs(paid.created_at - before) < timedelta(minutes=1)
    with pytest.raises(RefusedError) as caught:
        await caller(
            lambda c: c.transfers.create("alice", "shop", 5_000, "EUR", conditions=Conditions(source_version=99))
        )
    assert (caught.value.code, caught.value.retry, caught.value.outcome) == ("condition_failed", "new_key", "refused")
    read = await caller(lambda c: c.transfers.get(paid.id))
    assert read == await caller(lambda c: c.idempotency_keys.get("order-1"))
    assert (read.reversed, read.id) == (0, paid.id)
    assert await caller.take(
        lambda c: c.transfers.list(reference="o1", account="shop", since=before - timedelta(1))
    ) == [paid]
