"""The arithmetic of limits, in Lua and in Python, against a model in exact fractions."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from server.gate.limits import BURST_MAX, LOCAL_BUCKETS_MAX, QUOTA_MAX, Limit, LocalBuckets, read_rate, shown_rate
from server.store.scripts import script
from tests.limits.model import (
    CLOCK,
    END,
    EPOCH,
    INJECTED,
    MICROSECONDS,
    AddressScript,
    Model,
    Reply,
    Script,
    limits,
    steps,
)

HOUR = 3_600 * MICROSECONDS
NAMES = ("limits-test:{1}:a", "limits-test:{1}:b")
CROWD = tuple(f"limits-test:{{1}}:{side}:{number}" for side in "ab" for number in range(3))
ADDRESSES = ("limits-test:{2}", "limits-test:{2}:full")


@pytest.fixture(scope="module")
def redis(redis_url: str) -> Iterator[Any]:
    """The Valkey of this test process."""
    with Redis(unix_socket_path=unquote(urlsplit(redis_url).path)) as connection:
        yield connection


@pytest.mark.parametrize("name", ["gate", "address"])
def test_only_the_clock_is_replaced(name: str) -> None:
    """The script with the test's clock differs from the script in production only in that line."""
    text = script(name).text
    ours = text.replace(CLOCK, INJECTED).splitlines()
    differing = [(a, b) for a, b in zip(text.splitlines(), ours, strict=True) if a != b]
    assert differing == [(CLOCK.rstrip(), INJECTED.rstrip())]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_script_is_exact(redis: Any, data: st.DataObject) -> None:
    """For any rate, burst, gaps and costs, every wait and every rest is the model's."""
    limit = data.draw(limits())
    model, asked = Model([limit]), Script(redis, NAMES)
    now = EPOCH
    for gap, cost in data.draw(steps(limit)):
        now += gap
        assert asked.ask(now, [limit.bucket()], cost) == [model.ask(now, cost)]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_script_takes_all_or_nothing(redis: Any, data: st.DataObject) -> None:
    """A request that one of two limits refuses takes no token from either, alone or in a batch."""
    both = [data.draw(limits()), data.draw(limits())]
    model, asked = Model(both), Script(redis, NAMES)
    now = EPOCH
    for gap, cost in data.draw(steps(data.draw(st.sampled_from(both)))):
        now += gap
        expected = [model.ask(now, cost), model.ask(now, 1), model.ask(now, cost)]
        assert asked.ask(now, [limit.bucket() for limit in both], cost, 1, cost) == expected


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_script_counts_a_crowd_as_one_after_the_other(redis: Any, data: st.DataObject) -> None:
    """Requests of keys that share their ledger's limit get the same answers in one call as in a call each."""
    buckets = [data.draw(limits()).bucket() for _ in range(3)]
    together, apart = Script(redis, CROWD[:3]), Script(redis, CROWD[3:])
    # The buckets of three keys: two share the last bucket.
    keys = st.sampled_from([(0, 2), (1, 2), (1,)])
    now = EPOCH
    for gap, cost in data.draw(steps(data.draw(limits()))):
        now += gap
        asked = data.draw(st.lists(st.tuples(keys, st.sampled_from([0, 1, cost])), min_size=1, max_size=8))
        assert together.ask_all(now, buckets, *asked) == [apart.ask_all(now, buckets, one)[0] for one in asked]
        assert redis.mget(CROWD[:3]) == redis.mget(CROWD[3:])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_worker_alone_counts_as_the_script_does(data: st.DataObject) -> None:
    """A worker with the limits to itself gives the model's answers, for two limits at once."""
    both = [data.draw(limits()), data.draw(limits())]
    now = EPOCH
    model, local = Model(both), LocalBuckets(lambda: now)
    for gap, cost in data.draw(steps(data.draw(st.sampled_from(both)))):
        now += gap
        assert tuple(local.take(1, [("a", both[0]), ("b", both[1])], 1, cost)) == model.ask(now, cost)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), share=st.integers(1, 16))
def test_a_share_is_never_more_than_it_may_be(data: st.DataObject, share: int) -> None:
    """
    A share never admits more than its part of the rate plus one burst of the whole.

    A cost within the whole burst is admitted once the share has waited as long as it was told.
    """
    limit = data.draw(limits())
    now = EPOCH
    local, admitted = LocalBuckets(lambda: now), 0
    for gap, cost in data.draw(steps(limit)):
        now += gap
        taken = local.take(1, [("a", limit)], share, cost)
        assert (taken.wait == -1) == (cost > limit.burst)
        if taken.wait > 0:
            now += taken.wait
            taken = local.take(1, [("a", limit)], share, cost)
        admitted += cost if taken.wait == 0 else 0
        assert taken.wait <= 0
        elapsed = now - EPOCH
        gained = elapsed * limit.quota // (limit.window * MICROSECONDS * share)
        assert admitted <= max(1, limit.burst // share) + gained + limit.burst


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_waiting_as_told_is_enough_and_no_longer_than_needed(redis: Any, data: st.DataObject) -> None:
    """A request is admitted after the wait that it was told; a microsecond earlier it is not."""
    limit = data.draw(limits())
    asked, now, bucket = Script(redis, NAMES), EPOCH, [limit.bucket()]
    for gap, cost in data.draw(steps(limit)):
        now += gap
        (reply,) = asked.ask(now, bucket, cost)
        if reply.wait > 0 and now + reply.wait < END:
            (early,) = asked.ask(now + reply.wait - 1, bucket, cost)
            assert early.wait == 1
            now += reply.wait
            assert asked.ask(now, bucket, cost)[0].wait == 0


@pytest.mark.parametrize("limit", [Limit(1, 86_400, 3), Limit(7, 60, 5), Limit(999, 1, 1_500), Limit(QUOTA_MAX, 1, 10)])
def test_a_long_run_admits_rate_times_time(redis: Any, limit: Limit) -> None:
    """A bucket that is asked all the time admits its burst plus the rate times the time, within one token."""
    asked, now, admitted = Script(redis, NAMES), EPOCH, 0
    step = max(1, limit.window * MICROSECONDS // limit.quota // 3) + 1
    for number in range(1_000):
        # The first time takes the whole burst and asks for one more; later, each step brings less than a token.
        asks = 2 if number else limit.burst + 1
        admitted += sum(reply.wait == 0 for reply in asked.ask(now, [limit.bucket()], *[1] * asks))
        now += step
    ideal = limit.burst + (now - step - EPOCH) * limit.quota / (limit.window * MICROSECONDS)
    assert ideal - 1 < admitted <= ideal
    assert admitted > limit.burst + 150


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_buckets_of_addresses_are_exact(redis: Any, data: st.DataObject) -> None:
    """For several addresses, every wait and every rest is the model's, whatever was cleaned up in between."""
    limit = data.draw(limits())
    models = {address: Model([limit]) for address in ("a", "b", "c", "d")}
    asked, now = AddressScript(redis, ADDRESSES), EPOCH
    for gap, cost in data.draw(steps(limit)):
        now += gap
        for address in data.draw(st.lists(st.sampled_from(sorted(models)), max_size=4, unique=True)):
            reply = models[address].ask(now, cost)
            assert asked.ask(now, address, limit.bucket(), cost) == (reply.wait, reply.left)


def test_buckets_of_addresses_go_when_they_are_full(redis: Any) -> None:
    """Each call removes up to two buckets that are full again, and no others; none has a lifetime."""
    limit, asked = Limit(1, 1, 5).bucket(), AddressScript(redis, ADDRESSES)
    for number in range(100):
        assert asked.ask(EPOCH, f"address-{number}", limit, 1 + number % 2) == (0, 4 - number % 2)
    assert len(asked.kept) == 100
    assert [redis.ttl(name) for name in ADDRESSES] == [-1, -1]
    assert asked.ask(EPOCH + MICROSECONDS - 1, "other", limit, 0) == (0, 5)
    assert len(asked.kept) == 100
    for _ in range(25):
        asked.ask(EPOCH + MICROSECONDS, "other", limit, 0)
    # Buckets that gave two tokens are not full yet.
    assert asked.kept == {f"address-{number}" for number in range(1, 100, 2)}
    asked.ask(EPOCH + MICROSECONDS, "other", limit, 0)
    assert len(asked.kept) == 50
    for number in range(25):
        asked.ask(EPOCH + 2 * MICROSECONDS, f"new-{number}", limit, 1)
    assert asked.kept == {f"new-{number}" for number in range(25)}


def test_a_clock_that_steps_back_loses_no_limit_of_an_address(redis: Any) -> None:
    """After a step back of an hour nothing is refilled or removed, and no wait is longer than before."""
    limit, asked = Limit(1, 1, 5).bucket(), AddressScript(redis, ADDRESSES)
    assert asked.ask(EPOCH, "a", limit, 5) == (0, 0)
    assert asked.ask(EPOCH, "b", limit, 5) == (0, 0)
    back = EPOCH - HOUR
    assert asked.ask(back, "a", limit, 1) == (MICROSECONDS, 0)
    assert asked.ask(back + MICROSECONDS, "a", limit, 1) == (0, 0)
    assert asked.ask(back + HOUR // 2, "b", limit, 1) == (MICROSECONDS, 0)
    assert asked.ask(back + HOUR, "c", limit, 1) == (0, 4)
    assert asked.kept == {"c"}


def test_a_changed_limit_keeps_whole_tokens_of_an_address(redis: Any) -> None:
    """Tokens left under the old limit are left under the new one, up to its burst."""
    slow, fast = Limit(1, 86_400, 10), Limit(1_000, 1, 2_000)
    asked = AddressScript(redis, ADDRESSES)
    for limit, cost, left in ((slow, 7, 3), (fast, 1, 2), (slow, 1, 1), (fast, 0, 1)):
        assert asked.ask(EPOCH, "a", limit.bucket(), cost) == (0, left)


def test_a_clock_that_steps_back_is_believed(redis: Any) -> None:
    """After a step back of an hour nothing is refilled, and no wait is longer than before."""
    limit = Limit(1, 1, 5)
    asked, bucket = Script(redis, NAMES), [limit.bucket()]
    assert [reply.wait == 0 for reply in asked.ask(EPOCH, bucket, *[1] * 6)] == [True] * 5 + [False]
    back = EPOCH - HOUR
    # The first request is not admitted, but time counts from it.
    assert asked.ask(back, bucket, 1) == [Reply(MICROSECONDS, 0)]
    assert asked.ask(back + MICROSECONDS - 1, bucket, 1) == [Reply(1, 0)]
    assert asked.ask(back + MICROSECONDS, bucket, 1) == [Reply(0, 0)]


def test_a_clock_that_steps_forward_fills_and_no_more(redis: Any) -> None:
    """A step forward fills the bucket once."""
    limit = Limit(1, 1, 5)
    asked, bucket = Script(redis, NAMES), [limit.bucket()]
    asked.ask(EPOCH, bucket, 5)
    assert [reply.wait == 0 for reply in asked.ask(EPOCH + HOUR, bucket, *[1] * 7)] == [True] * 5 + [False] * 2


def test_a_changed_limit_keeps_whole_tokens(redis: Any) -> None:
    """Tokens left under the old limit are left under the new one, up to its burst."""
    slow, fast = Limit(1, 86_400, 10), Limit(1_000, 1, 2_000)
    now = EPOCH
    asked, local = Script(redis, NAMES), LocalBuckets(lambda: now)
    for limit, cost, left in ((slow, 7, 3), (fast, 1, 2), (slow, 1, 1), (fast, 0, 1), (Limit(1, 1, 1), 0, 1)):
        assert asked.ask(now, [limit.bucket()], cost) == [Reply(0, left)]
        assert local.take(1, [("a", limit)], 1, cost) == (0, left, 0)


def test_what_no_limit_of_ours_wrote_counts_as_full(redis: Any) -> None:
    """A bucket with a value in another form counts as full."""
    asked = Script(redis, NAMES)
    redis.set(NAMES[0], "5:6")
    assert asked.ask(EPOCH, [Limit(1, 1, 5).bucket()], 1) == [Reply(0, 4)]


def test_a_worker_remembers_so_many_buckets() -> None:
    """The least recently used bucket is dropped first, and then counts as full."""
    local, limit = LocalBuckets(lambda: EPOCH), Limit(1, 86_400, 5)
    for number in range(LOCAL_BUCKETS_MAX):
        local.take(number, [("a", limit)], 1, 5)
    assert local.take(0, [("a", limit)], 1, 0).left == 0
    local.take(LOCAL_BUCKETS_MAX, [("a", limit)], 1, 5)
    assert local.take(0, [("a", limit)], 1, 0).left == 0
    assert local.take(1, [("a", limit)], 1, 0).left == 5


@pytest.mark.parametrize(
    ("text", "rate"), [("5", (5, 1)), ("6/min", (6, 60)), ("1/h", (1, 3_600)), ("1/day", (1, 86_400))]
)
def test_rates_are_read_and_shown(text: str, rate: tuple[int, int]) -> None:
    """A rate is parsed, and its shown form parses to the same rate."""
    assert read_rate(text) == rate
    assert read_rate(shown_rate(*rate)) == rate


@pytest.mark.parametrize(
    "text", ["", "0", "0/s", "-1/s", "1.5/s", "01/s", "1/", "1/m", "1 /s", "1000001/s", "x", "1/s\n", "\u0661/s"]
)
def test_rates_that_cannot_be(text: str) -> None:
    """Any other text is refused."""
    with pytest.raises(ValueError, match="a rate is 1 to 1000000"):
        read_rate(text)


def test_what_cannot_be_counted_is_cut() -> None:
    """A burst whose units would exceed 2^53 is reported as inexact, and cut to the largest countable one."""
    slow = Limit(1, 86_400, BURST_MAX)
    assert not slow.exact
    assert slow.counted.exact
    assert not slow.counted._replace(burst=slow.counted.burst + 1).exact
    assert Limit(1_000, 1, BURST_MAX).counted.burst == BURST_MAX
