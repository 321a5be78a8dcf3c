"""Payments whose requests and answers are lost: each is made exactly once, or the outcome is reported as unknown."""

from collections.abc import Callable
from typing import Any

import pytest

from tallystick_client import (
    AccountItem,
    FollowUp,
    OutcomeUnknownError,
    ProblemError,
    RefusedError,
    TallystickError,
    TransferItem,
    UnavailableError,
)
from tests.client.calling import Caller, calling
from tests.client.conftest import LONG_DEADLINE_SECONDS
from tests.client.lossy import Lossy
from tests.support.client import Client

# What happens to the attempts of one request, in order; the next attempt passes.
FAULTS = [
    ["lose request"],
    ["lose answer"],
    ["half"],
    ["429", "429"],
    ["503"],
    ["503 unknown"],
    ["502"],
    ["502 afterwards"],
    ["lose answer", "503", "half", "429", "502 afterwards"],
]


async def sums(books: Client) -> dict[str, tuple[int, int, int]]:
    """Return balance and held amounts of each account, after checking that the balances sum to zero."""
    accounts = (await books.get("/v1/accounts?limit=100")).json["data"]
    assert sum(account["balance"] for account in accounts) == 0
    return {account["id"]: (account["balance"], account["held_in"], account["held_out"]) for account in accounts}


async def rows(books: Client) -> list[tuple[str, int]]:
    """Return kind and amount of shop's transfers, oldest first."""
    listed = (await books.get("/v1/transfers?account=shop&limit=100")).json["data"]
    return [(row["kind"], row["amount"]) for row in reversed(listed)]


@pytest.mark.parametrize("deadline_seconds", [LONG_DEADLINE_SECONDS], ids=[""])
@pytest.mark.parametrize("faults", FAULTS, ids=", ".join)
async def test_every_write_is_done_once(faults: list[str], losing: Caller, proxy: Lossy, books: Client) -> None:
    """Whatever happens to its attempts, each write is done once in the ledger, and its answer is true."""

    async def lossily(asked: Callable[[Any], Any]) -> Any:
        proxy.script(faults)
        answer = await losing(asked)
        assert len(proxy.sent) == len(faults) + 1
        assert len({key for _, _, key in proxy.sent}) == 1
        return answer

    opened = await lossily(lambda c: c.accounts.create("bob", "EUR", ceiling=10))
    assert (opened.id, opened.ceiling) == ("bob", 10)
    both = await lossily(lambda c: c.accounts.create_many([AccountItem("carol", "EUR"), AccountItem("bob", "USD")]))
    assert [result.status for result in both] in ([201, 409], [200, 409])
    paid = await lossily(lambda c: c.transfers.create("alice", "shop", 100, "EUR"))
    assert (paid.kind, paid.amount, paid.source_balance) == ("transfer", 100, 900)
    hold = await lossily(lambda c: c.transfers.create("alice", "shop", 50, "EUR", hold=True))
    capture = await lossily(lambda c: c.transfers.capture(hold.id, 30, release_rest=False))
    void = await lossily(lambda c: c.transfers.void(hold.id))
    back = await lossily(lambda c: c.transfers.reverse(capture.id))
    assert (capture.parent, void.parent, back.parent, back.amount) == (hold.id, hold.id, capture.id, 30)
    items = [
        TransferItem("alice", "shop", 7, "EUR", hold=True, key=f"{paid.id}-hold"),
        FollowUp("capture", parent_key=f"{paid.id}-hold"),
        TransferItem("alice", "shop", 100_000, "EUR"),
    ]
    many = await lossily(lambda c: c.transfers.create_many(items))
    assert [result.status for result in many] == [201, 201, 409]
    with pytest.raises(RefusedError):
        await lossily(lambda c: c.transfers.create("alice", "shop", 100_000, "EUR"))
    expected = [
        *(
            ("transfer", 100),
            ("hold", 50),
            ("capture", 30),
            ("void", 20),
            ("reversal", 30),
            ("hold", 7),
            ("capture", 7),
        ),
    ]
    assert await rows(books) == expected
    assert await sums(books) == {
        "alice": (893, 0, 0),
        "bob": (0, 0, 0),
        "carol": (0, 0, 0),
        "shop": (107, 0, 0),
        "world": (-1_000, 0, 0),
    }


PAY = "pay"
OVERDRAW = "overdraw"
AMOUNTS = {PAY: 100, OVERDRAW: 100_000}


Row = tuple[str, str, str, type[TallystickError] | None, str, bool]


@pytest.mark.parametrize(
    # The request; what happens to POSTs and to GETs; the error and its text; whether the payment was made.
    "row",
    [
        # All answers are lost, and a lookup of the key tells the outcome.
        (PAY, "lose answer", "pass", None, "", True),
        (PAY, "slow", "pass", None, "", True),
        (OVERDRAW, "half", "pass", RefusedError, "409 insufficient_funds", False),
        (PAY, "502 afterwards", "pass", None, "", True),
        # All requests are lost: an unbound key does not prove that no request is still on its way.
        (PAY, "lose request", "pass", OutcomeUnknownError, "may have been done: RemoteProtocolError", False),
        (PAY, "502", "pass", OutcomeUnknownError, "may have been done: 502", False),
        # Lookups fail too.
        (PAY, "lose answer", "lose answer", OutcomeUnknownError, "may have been done: RemoteProtocolError", True),
        (PAY, "503 unknown", "502", OutcomeUnknownError, "may have been done: 503 unavailable", True),
        # It is certain that nothing was done.
        (PAY, "503", "pass", ProblemError, "503 overloaded", False),
        (PAY, "429", "pass", ProblemError, "429 quota_exceeded", False),
        (PAY, "redirect", "pass", ProblemError, "307: Redirects are not followed", False),
    ],
)
async def test_what_is_told_in_the_end(row: Row, losing: Caller, proxy: Lossy, books: Client) -> None:
    """If every attempt fails, the caller is told the truth; a request with unknown outcome can be sent again later."""
    what, posts, gets, kind, told, paid = row
    proxy.script(rest=posts, rest_of_gets=gets)

    def pay(client: Any) -> Any:
        return client.transfers.create("alice", "shop", AMOUNTS[what], "EUR")

    error = None
    if kind is None:
        assert (await losing(pay)).amount == 100
    else:
        with pytest.raises(kind, match=told) as caught:
            await losing(pay)
        error = caught.value
        assert type(error) is kind
    assert len({key for _, _, key in proxy.sent if key}) == 1
    assert (await rows(books) == [("transfer", 100)]) == paid
    if isinstance(error, OutcomeUnknownError):
        request, key = error.request, error.idempotency_key
        proxy.script()
        again = await losing(lambda c: c.send(request))
        assert (await losing(lambda c: c.idempotency_keys.get(key))).id == again.id
        assert await rows(books) == [("transfer", 100)]


@pytest.mark.parametrize(
    ("asked", "posts", "attempts"),
    [
        pytest.param(
            lambda c: c.webhook_endpoints.create("http://127.0.0.1:1/"), "half", 1, id="an endpoint is created"
        ),
        pytest.param(lambda c: c.accounts.update("alice", floor=1), "503 unknown", 1, id="a change without a version"),
        pytest.param(
            lambda c: c.accounts.update("alice", floor=1, if_version=1), "lose answer", 2, id="one with a version"
        ),
    ],
)
async def test_what_has_no_key(
    asked: Callable[[Any], Any], posts: str, attempts: int, losing: Caller, proxy: Lossy
) -> None:
    """A write that could be done twice is not sent again; after a retry, a 412 leaves the outcome unknown."""
    proxy.script([posts])
    with pytest.raises(OutcomeUnknownError) as caught:
        await losing(asked)
    assert caught.value.idempotency_key is None
    assert len(proxy.sent) == attempts


async def test_what_has_no_key_and_was_not_done(losing: Caller, proxy: Lossy) -> None:
    """A write without a key is sent again if it was certainly not done."""
    proxy.script(["503", "429"])
    made = await losing(lambda c: c.webhook_endpoints.create("http://127.0.0.1:1/"))
    assert [made.id] == [endpoint.id for endpoint in await losing.take(lambda c: c.webhook_endpoints.list())]


async def test_no_server(kind: str, unused_tcp_port: int) -> None:
    """If nothing listens, a payment is tried until the deadline, and is known not to be made."""
    async with calling(kind, f"http://127.0.0.1:{unused_tcp_port}", "tsk_1", deadline_seconds=0.5) as caller:
        with pytest.raises(UnavailableError, match="ConnectError"):
            await caller(lambda c: c.transfers.create("alice", "shop", 1, "EUR"))
