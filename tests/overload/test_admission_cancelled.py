"""Admission alone: what is counted when requests are cancelled, or give their place away for a while."""

import asyncio

import pytest

from server.http import admission
from server.http.admission import Admission
from server.store.coalescer import QueueFullError
from tests.support.waiting import until

PLACES = 2


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few places, none of them kept for one kind."""
    monkeypatch.setattr(admission, "RUNNING_MAX", PLACES)
    monkeypatch.setattr(admission, "RUNNING_WRITES_MAX", PLACES)
    monkeypatch.setattr(admission, "RUNNING_READS_MAX", PLACES)


@pytest.mark.parametrize("when", ["it waits", "it has a place", "it is refused"])
async def test_who_is_cancelled_gives_its_place_back(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """A request that is cancelled while it waits, or just as it is answered, holds no place."""
    monkeypatch.setattr(admission, "WAIT_SECONDS", 60.0)
    some = Admission()
    while some.enter(write=True):
        pass
    entering = asyncio.create_task(some.entered(write=True))
    await until(lambda: bool(some._waiting[True]))
    if when == "it has a place":
        some.leave(write=True)
        some._admit()
        assert some.writes == PLACES
    elif when == "it is refused":
        monkeypatch.setattr(admission, "WAIT_SECONDS", 0.0)
        some._look()
        assert some.refused == 1
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    if when == "it waits":
        # Its turn comes, and goes to the next.
        some.leave(write=True)
        some._admit()
    assert (some.reads, some.writes) == (0, PLACES if when == "it is refused" else PLACES - 1)


@pytest.mark.parametrize("ended", ["well", "by a failure", "cancelled"])
@pytest.mark.parametrize("place", [True, False], ids=["a place again", "no place again"])
async def test_outside_the_count_is_right(monkeypatch: pytest.MonkeyPatch, ended: str, place: bool) -> None:
    """After giving its place away a request counts again, even without a free place, so that its end can be counted."""
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.0)
    some = Admission()
    assert some.enter(write=False)
    inside = asyncio.Event()

    async def go_out() -> None:
        async with some.arriving(10, write=False):
            assert (some.reads, some.arriving_bytes) == (0, 10)
            if not place:
                while some.enter(write=False):
                    pass
            inside.set()
            if ended == "by a failure":
                raise ZeroDivisionError
            if ended == "cancelled":
                await asyncio.sleep(60)

    going = asyncio.create_task(go_out())
    await inside.wait()
    if ended == "cancelled":
        going.cancel()
    await asyncio.wait([going])
    assert (some.reads, some.arriving_bytes) == (1 if place else PLACES + 1, 0)
    if not place and ended == "well":
        assert isinstance(going.exception(), QueueFullError)
