"""Holds end at their instant in every answer, whether or not their expiry has been posted."""

from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.api.holding import figures, follow, followed, held, progress
from tests.api.steps import bulk, codes, order, pages
from tests.support.client import Client
from tests.support.clock import BooksClock
from tests.support.expiries import post_expiries
from tests.support.service import Service

MOMENT = timedelta(microseconds=1)
# The lifetime of holds here, in seconds.
SHORT = 60
# How long after the end of a hold the test keeps reading from the cache.
LOOKED_ON = timedelta(milliseconds=100)


@pytest.fixture
async def funded(timed: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing, and whose clock can be moved."""
    await timed.fund("alice", 100)
    await timed.open("bob")
    return timed


async def expiry_of(client: Client, hold: str) -> datetime:
    """Return the instant at which a hold ends."""
    return datetime.fromisoformat((await client.get(f"/v1/transfers/{hold}")).json["hold"]["expires_at"])


async def accounts(client: Client) -> list[Any]:
    """Return alice and bob, which must be the same in the list, the cache and the database."""
    listed = [row for row in (await client.get("/v1/accounts")).json["data"] if row["id"] in ("alice", "bob")]
    for row in listed:
        for headers in ({}, {}, {"Cache_Control": "no-cache"}):
            answer = await client.get(f"/v1/accounts/{row['id']}", **headers)
            assert (answer.json, answer.headers["ETag"]) == (row, f'"{row["version"]}"')
    return listed


async def test_a_hold_is_there_until_its_instant_and_gone_from_it_on(funded: Client, clock: BooksClock) -> None:
    """A microsecond before its instant a hold reserves all that remains; at its instant it reserves nothing."""
    parent = await held(funded, 30, expires_in=SHORT)
    await followed(funded, "capture", parent, amount=10, release_rest=False)
    instant = await expiry_of(funded, parent)
    await clock.stop_at(instant - MOMENT)
    before = await accounts(funded)
    assert [(row["held_in"], row["held_out"], row["available"]) for row in before] == [(0, 20, 70), (20, 0, 10)]
    assert await progress(funded, parent) == (("open", 10, 20), 0)
    await clock.stop_at(instant)
    after = await accounts(funded)
    assert [(row["held_in"], row["held_out"], row["available"]) for row in after] == [(0, 0, 90), (0, 0, 10)]
    assert [row["version"] for row in after] == [row["version"] + 1 for row in before]
    assert await progress(funded, parent) == (("expired", 10, 0), 0)
    for kind in ("capture", "void"):
        refused = await follow(funded, kind, parent)
        assert (refused.status, refused.code, refused.json["pointer"]) == (409, "hold_not_open", "/parent")


async def test_a_capture_just_before_the_end(funded: Client, clock: BooksClock) -> None:
    """Until its instant a hold can be captured and voided, even two microseconds and one microsecond before."""
    parent = await held(funded, 30, expires_in=SHORT)
    # The void is posted a microsecond after the capture, since no two batches share an instant.
    await clock.stop_at(await expiry_of(funded, parent) - 2 * MOMENT)
    await followed(funded, "capture", parent, amount=10, release_rest=False)
    await followed(funded, "void", parent)
    await clock.stop_at(await expiry_of(funded, parent))
    assert await progress(funded, parent) == (("voided", 10, 0), 0)
    assert await figures(funded, "alice") == (90, 0, 0, 90)


async def test_entity_tags_change_at_the_instant(funded: Client, clock: BooksClock) -> None:
    """At its instant a hold's end changes tag and version: the old tag no longer matches in reads or in changes."""
    parent = await held(funded, 30, expires_in=SHORT)
    old = (await funded.get("/v1/accounts/alice")).headers["ETag"]
    assert (await funded.get("/v1/accounts/alice", If_None_Match=old)).status == 304
    await clock.stop_at(await expiry_of(funded, parent))
    for headers in ({}, {"Cache_Control": "no-cache"}):
        answer = await funded.get("/v1/accounts/alice", If_None_Match=old, **headers)
        assert (answer.status, answer.json["available"], answer.headers["ETag"]) == (200, 100, '"4"')
        assert (await funded.get("/v1/accounts/alice", If_None_Match='"4"', **headers)).status == 304
    assert (await funded.get("/v1/accounts/alice?min_version=4")).status == 200
    assert (await funded.get("/v1/accounts/alice?min_version=5")).code == "version_not_reached"
    late = await funded.send("PATCH", "/v1/accounts/alice", {"metadata": {"a": "b"}}, headers={"If-Match": old})
    assert late.code == "precondition_failed"
    changed = await funded.send("PATCH", "/v1/accounts/alice", {"metadata": {"a": "b"}}, headers={"If-Match": '"4"'})
    assert (changed.status, changed.json["version"], changed.json["held_out"]) == (200, 5, 0)
    assert await funded.account("alice") == changed.json


@pytest.mark.parametrize("posted", [False, True], ids=["not posted", "posted"])
async def test_what_a_due_hold_reserved_can_be_used(
    funded: Client, timed_service: Service, ledger: str, clock: BooksClock, posted: bool
) -> None:
    """From its instant on, funds, ceilings and conditions ignore the hold, whether or not its expiry was posted."""
    await funded.open("purse", ceiling=30)
    await held(funded, 100, expires_in=SHORT)
    await held(funded, 30, source="world", destination="purse", expires_in=SHORT)
    assert (await funded.transfer("alice", "bob", 1)).code == "insufficient_funds"
    assert (await funded.transfer("world", "purse", 1)).code == "ceiling_exceeded"
    await clock.advance(SHORT)
    if posted:
        assert await post_expiries(timed_service, ledger) == 2
    stale = {"source_version": 3}
    assert (await funded.transfer("alice", "bob", 1, conditions=stale)).code == "condition_failed"
    fresh = {"source_version": 4, "destination_version": 3, "source_available_gte": 100}
    moved = await funded.transfer("alice", "bob", 100, conditions=fresh)
    assert (moved.status, moved.json["source_version"], moved.json["destination_version"]) == (201, 5, 4)
    assert (await funded.transfer("world", "purse", 30)).status == 201
    assert await figures(funded, "alice") == (0, 0, 0, 0)
    assert await figures(funded, "purse") == (30, 0, 0, 30)


async def test_posting_an_expiry_changes_no_answer(
    funded: Client, timed_service: Service, ledger: str, clock: BooksClock
) -> None:
    """Accounts, tags, holds and statements stay the same, byte for byte; a second posting does nothing."""
    parents = [await held(funded, 10 + n, expires_in=SHORT + n) for n in range(3)]
    await held(funded, 5, expires_in=3 * SHORT)
    await followed(funded, "capture", parents[0], amount=4, release_rest=False)
    await clock.stop_at(await expiry_of(funded, parents[1]))
    paths = [
        *(f"/v1/accounts/{account}{rest}" for account in ("alice", "bob") for rest in ("", "/entries")),
        "/v1/accounts",
        *(f"/v1/transfers/{parent}" for parent in parents),
    ]

    async def looks() -> list[tuple[bytes, str | None]]:
        answers = [await funded.get(path, Cache_Control="no-cache") for path in paths]
        return [(answer.body, answer.headers.get("ETag")) for answer in answers]

    before = await looks()
    assert (await funded.account("alice"))["held_out"] == 17
    assert await post_expiries(timed_service, ledger) == 2
    assert await looks() == before
    assert await post_expiries(timed_service, ledger) == 0
    await funded.transfer("alice", "bob", 1)
    assert await funded.account("alice") == {
        **(await funded.account("alice")),
        "held_out": 17,
        "available": 100 - 4 - 17 - 1,
        "version": 2 + 4 + 1 + 2 + 1,
    }


async def test_an_expiry_is_a_row(funded: Client, timed_service: Service, ledger: str, clock: BooksClock) -> None:
    """A posted expiry names its hold and releases what remained, under a key that no caller can have."""
    parent = await held(funded, 30, expires_in=SHORT)
    await followed(funded, "capture", parent, amount=10, release_rest=False)
    await clock.advance(SHORT)
    await post_expiries(timed_service, ledger)
    rows = [row for page in await pages(funded, "/v1/transfers", 2) for row in page]
    [row] = [row for row in rows if row["kind"] == "expiry"]
    shown = ("parent", "source", "destination", "amount", "currency", "state")
    assert [row[member] for member in shown] == [parent, "alice", "bob", 20, "EUR", "posted"]
    assert [row[f"{side}_balance"] for side in ("source", "destination")] == [90, 10]
    assert (await funded.get(f"/v1/idempotency-keys/expiry%20{parent}")).status == 404
    assert (await funded.transfer("alice", "bob", 1, f"expiry {parent}")).code == "idempotency_key_invalid"


async def test_holds_that_are_not_due_are_not_expired(
    funded: Client, timed_service: Service, ledger: str, clock: BooksClock
) -> None:
    """Posting an expiry too early, or for a hold that is no longer open, changes nothing."""
    parents = [await held(funded, 10, expires_in=SHORT) for _ in range(3)]
    await followed(funded, "void", parents[0])
    await followed(funded, "capture", parents[1])
    before = await accounts(funded)
    assert await post_expiries(timed_service, ledger) == 0
    await clock.stop_at(await expiry_of(funded, parents[2]) - MOMENT)
    assert await post_expiries(timed_service, ledger) == 0
    assert await accounts(funded) == before


async def test_several_holds_of_one_instant_count_a_version_each(funded: Client, clock: BooksClock) -> None:
    """Each hold that ends adds a version to both accounts, as every other change does."""
    items: list[dict[str, Any]] = [
        {"key": f"hold-{n}", **order(amount=5, hold=True, expires_in=SHORT)} for n in range(7)
    ]
    assert codes(await bulk(funded, items)) == [201] * 7
    await clock.advance(SHORT)
    assert [row["version"] for row in await accounts(funded)] == [2 + 14, 1 + 14]
    assert await figures(funded, "alice") == (100, 0, 0, 100)


async def test_both_sides_of_one_account(funded: Client, clock: BooksClock) -> None:
    """If an account is the source of one hold and the destination of another, both end."""
    await funded.open("carol")
    await held(funded, 10, expires_in=SHORT)
    await held(funded, 20, source="world", destination="alice", expires_in=SHORT)
    await held(funded, 7, destination="carol", expires_in=2 * SHORT)
    assert await figures(funded, "alice") == (100, 20, 17, 83)
    await clock.advance(SHORT)
    assert await figures(funded, "alice") == (100, 0, 7, 93)
    assert (await funded.account("alice"))["version"] == 7
    assert await figures(funded, "carol") == (0, 7, 0, 0)


async def test_what_is_due_never_overflows(timed: Client, clock: BooksClock) -> None:
    """A due hold still counts in the stored sums until its expiry is posted; a sum that would overflow is refused."""
    for account in ("from", "to"):
        await timed.open(account, floor=None)
    most = 2**63 - 1
    parent = await held(timed, most, source="from", destination="to", expires_in=SHORT)
    await clock.stop_at(await expiry_of(timed, parent))
    answer = await timed.transfer("from", "to", most, hold=True)
    assert (answer.status, answer.code) == (409, "balance_overflow")
    assert (await timed.transfer("from", "to", most)).status == 201


async def test_a_set_meets_holds_that_are_due(funded: Client, clock: BooksClock) -> None:
    """A failing atomic set undoes neither the end of a hold nor its version."""
    parent = await held(funded, 60, expires_in=SHORT)
    await clock.advance(SHORT)
    items: list[dict[str, Any]] = [{"key": "a", **order(amount=100)}, {"key": "b", "kind": "capture", "parent": parent}]
    assert codes(await bulk(funded, items, atomic=True)) == ["linked_failed", "hold_not_open"]
    assert [row["version"] for row in await accounts(funded)] == [4, 3]
    items = [{"key": "c", **order(amount=100)}, {"key": "d", **order("bob", "alice", 100, hold=True)}]
    results = await bulk(funded, items, atomic=True)
    assert [result["transfer"]["source_version"] for result in results] == [5, 5]
    assert await figures(funded, "bob") == (100, 0, 100, 0)


async def test_no_cached_read_shows_a_hold_that_is_gone(service: Service, client: Client) -> None:
    """In real time, no cached read that starts after the end of a hold shows it as held."""
    assert service.app is not None
    await client.fund("alice", 100)
    await client.open("bob")
    await service.reads_snapshots()
    ends = await expiry_of(client, await held(client, 30, expires_in=1))
    database = await asyncpg.connect(service.database_url)
    hits, shown, now = service.app.counters.hits, [], ends - MOMENT
    try:
        while now < ends + LOOKED_ON:
            now = await database.fetchval("SELECT tallystick.ledger_clock()")
            reads = [(await client.account("alice"))["available"] for _ in range(5)]
            assert now < ends or set(reads) == {100}
            shown += reads
    finally:
        await database.close()
    assert set(shown) == {70, 100}
    assert service.app.counters.hits - hits > len(shown) / 2, "the reads came out of the cache"
