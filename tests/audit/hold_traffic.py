"""What traffic with holds, reversals and value dates leaves behind: holds of every fate, and one that is due."""

import hashlib
from datetime import timedelta
from typing import Any

from server.ledger.ids import new_transfer_id
from server.ledger.transfers import Bound, TransferRequest
from tests.support.client import Answer, Client
from tests.support.clock import BooksClock
from tests.support.expiries import post_expiries
from tests.support.postgres import administer
from tests.support.service import Service

# Seconds after which some holds expire, and for which the one that is due when all is over has been so by then.
SOON, DUE_FOR = 100, 30


class Holds:
    """
    Orders of one client that name transfers by the keys they were posted under.

    Args:
        client: Of the ledger.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ids: dict[str, str] = {}

    async def post(self, key: str, source: str, destination: str, amount: int, **fields: object) -> None:
        """Post a transfer or a hold."""
        self._keep(key, await self.client.transfer(source, destination, amount, key, **fields))

    async def hold(
        self, key: str, amount: int, source: str = "buyer", destination: str = "shop", **fields: object
    ) -> None:
        """Post a hold."""
        await self.post(key, source, destination, amount, hold=True, **fields)

    async def follow(self, key: str, parent: str, action: str, **fields: object) -> None:
        """Capture, void or reverse."""
        self._keep(key, await self.ask(key, self.ids[parent], action, **fields))

    async def ask(self, key: str, parent_id: str, action: str, **fields: object) -> Answer:
        """Ask to capture, void or reverse what has this id, and return the answer."""
        path = f"/v1/transfers/{parent_id}/{action}"
        return await self.client.send("POST", path, fields, headers={"Idempotency-Key": key})

    def _keep(self, key: str, answer: Answer) -> None:
        assert answer.status == 201, answer
        self.ids[key] = answer.json["id"]


async def play_holds(service: Service, ledger: str, client: Client, clock: BooksClock) -> None:
    """Hold, capture, void, let expire, reverse and be refused; the clock stands still afterwards."""
    holds = Holds(client)
    await client.fund("buyer", 1000)
    for account in ("shop", "till"):
        await client.open(account)
    await _end_in_every_way(holds)
    await _reverse(holds)
    await _change_limits(holds)
    await _be_refused(holds)
    await _expire(service, ledger, holds, clock)


async def _end_in_every_way(holds: Holds) -> None:
    await holds.hold("open", 50)
    await holds.follow("open-part", "open", "capture", amount=20, release_rest=False)
    await holds.hold("captured", 40)
    await holds.follow("captured-all", "captured", "capture")
    await holds.hold("captured-less", 60)
    await holds.follow("captured-less-part", "captured-less", "capture", amount=25)
    await holds.hold("captured-twice", 30)
    await holds.follow("captured-twice-1", "captured-twice", "capture", amount=10, release_rest=False)
    await holds.follow("captured-twice-2", "captured-twice", "capture", amount=20, release_rest=False)
    await holds.hold("voided", 30)
    await holds.follow("voided-void", "voided", "void")
    await holds.hold("voided-late", 30)
    await holds.follow("voided-late-part", "voided-late", "capture", amount=10, release_rest=False)
    await holds.follow("voided-late-void", "voided-late", "void")


async def _reverse(holds: Holds) -> None:
    await holds.post("sale", "buyer", "shop", 100, effective_at="2024-02-29T12:00:00Z")
    await holds.follow("sale-back", "sale", "reverse", amount=30)
    await holds.follow("sale-back-rest", "sale", "reverse")
    await holds.follow("captured-back", "captured-all", "reverse", amount=15)


async def _change_limits(holds: Holds) -> None:
    """Captures pass limits that were drawn closer after their holds."""
    client = holds.client
    await client.fund("guest", 100)
    await client.open("jar", ceiling=100)
    await holds.hold("guest-hold", 90, "guest", "jar")
    assert (await client.send("PATCH", "/v1/accounts/guest", {"floor": 50})).status == 200
    assert (await client.send("PATCH", "/v1/accounts/jar", {"ceiling": 80})).status == 200
    await holds.follow("guest-capture", "guest-hold", "capture")


async def _be_refused(holds: Holds) -> None:
    ids = holds.ids
    for code, answer in {
        "hold_not_open": await holds.ask("no-1", ids["captured"], "capture"),
        "capture_exceeds_hold": await holds.ask("no-2", ids["open"], "capture", amount=31),
        "reversal_exceeds_transfer": await holds.ask("no-3", ids["captured-all"], "reverse", amount=26),
        "transfer_not_found": await holds.ask("no-4", "01890000-0000-7000-8000-000000000000", "void"),
        "insufficient_funds": await holds.client.transfer("buyer", "shop", 900, "no-5", hold=True),
    }.items():
        assert answer.code == code, answer


async def _expire(service: Service, ledger: str, holds: Holds, clock: BooksClock) -> None:
    """Holds fall due between entries; the expiries of some are posted, with entries before and after them."""
    client = holds.client
    await holds.hold("swept", 15, expires_in=SOON)
    await holds.hold("swept-part", 20, expires_in=SOON)
    await holds.follow("swept-part-part", "swept-part", "capture", amount=5, release_rest=False)
    await client.fund("saver", 100)
    await client.open("pot")
    for key in ("saver-1", "saver-2"):
        await holds.hold(key, 5, "saver", "pot", expires_in=SOON)
    await _import(service, ledger, holds, clock)
    await clock.advance(SOON + 1)
    await holds.post("between", "buyer", "till", 3)
    # The version of an account does not count its holds that are due, that of an entry does: this limit is newer.
    await holds.post("saved", "saver", "till", 40)
    assert (await client.send("PATCH", "/v1/accounts/saver", {"floor": 90})).status == 200
    assert await post_expiries(service, ledger) == 6
    await holds.post("after", "buyer", "till", 4)
    await holds.hold("due", 12, expires_in=SOON)
    await clock.stop_at(await clock.now() + timedelta(seconds=SOON + DUE_FOR))
    # All that is available, and that is what the hold reserves in the stored columns too.
    available = (await client.account("buyer"))["available"]
    await holds.post("all", "buyer", "till", available - 1)


async def _import(service: Service, ledger: str, holds: Holds, clock: BooksClock) -> None:
    """What comes from other books: holds whose instant had passed when they were posted, an expiry before its own."""
    assert service.app is not None
    await holds.client.fund("old", 100)
    passed = await clock.now() - timedelta(hours=1)
    [row] = await administer(service.database_url, "SELECT id FROM tallystick.ledgers WHERE name = $1", ledger)
    requests = [
        _request("old-1", kind="hold", source="old", destination="pot", amount=7, currency="EUR", expires_at=passed),
        _request("old-2", kind="hold", source="old", destination="pot", amount=8, currency="EUR", expires_at=passed),
        _request("old-3", source="old", destination="pot", amount=9, currency="EUR", effective_at=passed),
        _request("old-4", kind="hold", source="old", destination="pot", amount=6, currency="EUR", expires_in=1000),
    ]
    requests = [request._replace(effective_at=passed - timedelta(hours=1)) for request in requests]
    cut_short = _request("expiry of old-4", kind="expiry", parent_key="old-4", release_rest=True)
    too_late = _request("old-void", kind="void", parent_key="old-1")
    posted = await service.app.posting.post_many(row["id"], requests, atomic=False)
    posted += await service.app.posting.post_many(row["id"], [cut_short, too_late], atomic=False)
    refusals = [outcome.attempt.refusal for outcome in posted if isinstance(outcome, Bound)]
    assert refusals == [None] * 5 + ["hold_not_open"], posted


def _request(key: str, **fields: Any) -> TransferRequest:
    unset = dict.fromkeys(("source", "destination", "amount", "currency", "reference", "description", "conditions"))
    own = {"key": key, "fingerprint": hashlib.sha256(key.encode()).digest(), "id": new_transfer_id()}
    return TransferRequest(**{**unset, **own, "metadata": "{}", "request_id": "", **fields})
