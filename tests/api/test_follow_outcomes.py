"""The outcomes of captures, voids and reversals: every kind, parent state and limit, in the order of checks."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from tests.api.holding import NO_ID, follow, followed, followed_in_every_way, held, hold, paid, progress
from tests.api.steps import bound
from tests.support.client import Client, new_key
from tests.support.clock import BooksClock
from tests.support.expiries import post_expiries
from tests.support.postgres import administer
from tests.support.service import Service

# The lifetime in seconds of the holds that become due here.
SHORT = 60
# More than any parent has left, and less than what every parent with something left has.
TOO_MUCH, FITTING = 1_000, 5


class Parent(NamedTuple):
    """A parent that requests name."""

    id: str
    key: str


class Stage:
    """A ledger with a parent in every state."""

    def __init__(self, client: Client, service: Service, ledger: str, clock: BooksClock) -> None:
        self.client = client
        self._service = service
        self._ledger = ledger
        self._clock = clock

    async def named(self, key: str) -> Parent:
        """Return the row that a key is bound to."""
        return Parent((await bound(self.client, key)).json["id"], key)

    async def after(self, kind: str, parent: Parent, **fields: Any) -> Parent:
        """Capture, void or reverse, and return the new row."""
        key = new_key()
        await followed(self.client, kind, parent.id, key, **fields)
        return await self.named(key)

    async def hold(self, *after: tuple[str, dict[str, Any]], **fields: Any) -> Parent:
        """Create a hold of 20, and apply *after* to it."""
        key = new_key()
        parent = Parent(await held(self.client, 20, key, **fields), key)
        for kind, asked in after:
            await followed(self.client, kind, parent.id, **asked)
        return parent

    async def transfer(self, *reversed_: int) -> Parent:
        """Create a transfer of 20, and reverse these amounts of it."""
        key = new_key()
        parent = Parent(await paid(self.client, 20, key), key)
        for amount in reversed_:
            await followed(self.client, "reversal", parent.id, amount=amount)
        return parent

    async def refused(self, post: Callable[..., Awaitable[object]], **fields: Any) -> Parent:
        """Return the row of a refused posting."""
        key = new_key()
        await post(self.client, 10_000, key, **fields)
        return await self.named(key)

    async def all(self) -> dict[str, Parent]:
        """Create a row in every state, by the name of that state."""
        partly: tuple[str, dict[str, Any]] = ("capture", {"amount": FITTING, "release_rest": False})
        expired = await self.hold(expires_in=SHORT)
        await self._clock.advance(SHORT)
        assert await post_expiries(self._service, self._ledger) == 1
        [expiry] = await administer(
            self._service.database_url,
            "SELECT id, idempotency_key FROM tallystick.transfers WHERE kind = 'expiry' AND parent = $1",
            expired.id,
        )
        states = {
            "unknown": Parent(NO_ID, "never-bound"),
            "refused hold": await self.refused(hold),
            "refused transfer": await self.refused(_transfer),
            "refused capture": Parent("", ""),
            "open hold": await self.hold(),
            "partly captured hold": await self.hold(partly),
            "captured hold": await self.hold(("capture", {})),
            "hold captured in part, the rest released": await self.hold(("capture", {"amount": FITTING})),
            "voided hold": await self.hold(("void", {})),
            "hold voided after a capture": await self.hold(partly, ("void", {})),
            "due hold": await self.hold(expires_in=SHORT),
            "due hold, captured in part": await self.hold(partly, expires_in=SHORT),
            "expired hold": expired,
            "expiry": Parent(str(expiry["id"]), ""),
            "void": await self.after("void", await self.hold()),
            "capture": await self.after("capture", await self.hold()),
            "transfer": await self.transfer(),
            "transfer reversed in part": await self.transfer(FITTING),
            "reversed transfer": await self.transfer(FITTING, 20 - FITTING),
            "reversal": await self.after("reversal", await self.transfer()),
        }
        states["reversed capture"] = await self.after("capture", await self.hold())
        await followed(self.client, "reversal", states["reversed capture"].id)
        await follow(self.client, "capture", states["captured hold"].id, "refused-capture")
        states["refused capture"] = await self.named("refused-capture")
        await self._clock.advance(SHORT)
        return states


async def _transfer(client: Client, amount: int, key: str) -> object:
    return await client.transfer("alice", "bob", amount, key)


@pytest.fixture
async def stage(timed: Client, timed_service: Service, ledger: str, clock: BooksClock) -> Stage:
    """A ledger in which alice can pay bob."""
    await timed.fund("alice", 2_000)
    await timed.open("bob")
    return Stage(timed, timed_service, ledger, clock)


# The states that each kind can follow; every other state is refused before anything else is checked.
RIGHT = {
    "capture": ("open hold", "partly captured hold"),
    "void": ("open hold", "partly captured hold"),
    "reversal": ("capture", "transfer", "transfer reversed in part"),
}
WRONG = {"capture": "hold_not_open", "void": "hold_not_open", "reversal": "reversal_exceeds_transfer"}
# Wholly reversed: the state is valid, but nothing is left to reverse.
SPENT = ("reversed transfer", "reversed capture")
EXCESS = {"capture": "capture_exceeds_hold", "reversal": "reversal_exceeds_transfer"}

# The refusals in the order of checks, each with the change that removes it. A reversal's source is bob.
BARRIERS: dict[str, list[tuple[str, str, str, dict[str, object]]]] = {
    "capture": [
        ("account_closed", "/source", "alice", {"closed": False}),
        ("account_closed", "/destination", "bob", {"closed": False}),
    ],
    "reversal": [
        ("account_closed", "/source", "bob", {"closed": False}),
        ("account_closed", "/destination", "alice", {"closed": False}),
    ],
    "void": [],
}
FUNDS: list[tuple[str, str, str, dict[str, object]]] = [
    ("insufficient_funds", "/source", "bob", {"floor": 0}),
    ("ceiling_exceeded", "/destination", "alice", {"ceiling": None}),
]


async def patch(client: Client, account: str, changes: dict[str, object]) -> None:
    """Change an account."""
    answer = await client.send("PATCH", f"/v1/accounts/{account}", changes)
    assert answer.status == 200, answer


@pytest.mark.parametrize("kind", ["capture", "void", "reversal"])
async def test_the_first_broken_rule_decides(stage: Stage, kind: str) -> None:
    """The first broken rule in the contract's order decides the answer, alone and in every bulk."""
    client = stage.client
    states = await stage.all()
    source, destination = ("bob", "alice") if kind == "reversal" else ("alice", "bob")
    await patch(client, source, {"closed": True, "floor": 1_999})
    await patch(client, destination, {"closed": True, "floor": None, "ceiling": 0})
    amount: dict[str, Any] = {} if kind == "void" else {"amount": TOO_MUCH}

    async def expect(names: tuple[str, ...], status: int, code: str | None, pointer: str | None) -> None:
        for name in names:
            parent = states[name]
            told = await followed_in_every_way(client, kind, parent.id, parent.key or "expiry-has-no-key", **amount)
            assert set(told) == {(status, code, pointer)}, name

    right = RIGHT[kind]
    spent = SPENT if kind == "reversal" else ()
    await expect(("unknown",), 404, "transfer_not_found", "/parent")
    wrong = tuple(name for name in states if name not in (*right, *spent, "unknown", "expiry"))
    await expect(wrong, 409, WRONG[kind], "/parent")
    by_id = await follow(client, kind, states["expiry"].id, **amount)
    assert (by_id.code, by_id.json["pointer"]) == (WRONG[kind], "/parent")
    for code, pointer, account, remedy in BARRIERS[kind]:
        await expect((*right, *spent), 409, code, pointer)
        await patch(client, account, remedy)
    if kind != "void":
        await expect((*right, *spent), 409, EXCESS[kind], "/amount")
        for name in spent:
            nothing_left = await followed_in_every_way(client, kind, states[name].id, states[name].key)
            assert set(nothing_left) == {(409, EXCESS[kind], "/parent")}
        amount = {"amount": FITTING}
    if kind == "reversal":
        for code, pointer, account, remedy in FUNDS:
            await expect(right, 409, code, pointer)
            await patch(client, account, remedy)
    for name in right:
        await expect((name,), 201, None, None)


async def test_refusals_change_nothing(stage: Stage) -> None:
    """No refusal in the table changes the parent or either account, versions included."""
    client = stage.client
    states = await stage.all()
    before = [await client.account(account) for account in ("alice", "bob")]
    shown = {name: await progress(client, parent.id) for name, parent in states.items() if name != "unknown"}
    for kind, right in RIGHT.items():
        for name, parent in states.items():
            fields: dict[str, Any] = {} if kind == "void" or name in SPENT else {"amount": TOO_MUCH}
            if kind != "void" or name not in right:
                assert (await follow(client, kind, parent.id, **fields)).status in (404, 409)
    assert [await client.account(account) for account in ("alice", "bob")] == before
    assert {name: await progress(client, parent.id) for name, parent in states.items() if name != "unknown"} == shown


async def test_what_each_state_shows(stage: Stage) -> None:
    """A read shows the state, what was captured, what remains and what was reversed."""
    expected = {
        "refused hold": (None, 0),
        "refused transfer": (None, 0),
        "refused capture": (None, 0),
        "open hold": (("open", 0, 20), 0),
        "partly captured hold": (("open", 5, 15), 0),
        "captured hold": (("captured", 20, 0), 0),
        "hold captured in part, the rest released": (("captured", 5, 0), 0),
        "voided hold": (("voided", 0, 0), 0),
        "hold voided after a capture": (("voided", 5, 0), 0),
        "due hold": (("expired", 0, 0), 0),
        "due hold, captured in part": (("expired", 5, 0), 0),
        "expired hold": (("expired", 0, 0), 0),
        "expiry": (None, 0),
        "void": (None, 0),
        "capture": (None, 0),
        "transfer": (None, 0),
        "transfer reversed in part": (None, 5),
        "reversed transfer": (None, 20),
        "reversed capture": (None, 20),
        "reversal": (None, 0),
    }
    states = await stage.all()
    del states["unknown"]
    assert {name: await progress(stage.client, parent.id) for name, parent in states.items()} == expected
