"""Parts of the load tests that need no users: shapes, figures, objectives and limits."""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.history.model import Operation
from loadtests.history.recorder import Heard, Recorder
from loadtests.kit.catalogue import CALM, SCENARIOS, SHAPES, STRICT, judge
from loadtests.kit.plan import KneeSearch, Limit, Plan, Step, users_at
from loadtests.kit.promises import accuracy
from loadtests.payers import Habits, Payer, Request

LIMIT = Limit(quota=10, window=1, burst=20)
USUAL = {**dict.fromkeys(STRICT, 0.0), **dict.fromkeys(CALM, 3.0), "error_rate": 0.0}


def made(**changes: object) -> Plan:
    """Return a plan."""
    fields: dict[str, object] = {
        "scenario": "reads",
        "url": "http://127.0.0.1:1",
        "run": "r",
        "users": 2,
        "pace": 1.0,
        "seconds": 1.0,
        "shape": "steady",
        "seed": 1,
        "size": 50,
        "folder": "reports/reads",
    }
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]  # few, by name


@given(st.sampled_from(["ramp", "spike", "soak"]), st.integers(1, 500), st.floats(1, 1e5), st.floats(0, 0.999))
def test_a_shape_has_some_users_and_never_too_many(shape: str, users: int, seconds: float, share: float) -> None:
    """A shape has at least one user and never too many until its end, and none afterwards."""
    now = users_at(shape, users, seconds, share * seconds)
    assert now is not None
    assert 1 <= now <= users
    assert users_at(shape, users, seconds, seconds) is None


def test_a_spike_has_all_users_in_its_middle() -> None:
    assert [users_at("spike", 50, 10, at) for at in (0, 3.9, 4, 5.9, 6, 9)] == [10, 10, 50, 50, 10, 10]


def test_the_knee_is_where_more_users_bring_no_more() -> None:
    """The search ends at the knee, without trying all users."""
    search = KneeSearch(users_max=1_000, seconds=80)
    rates = {1: 100.0, 2: 200.0, 4: 390.0, 8: 410.0}
    while not search.step_is_over(rates[search.users], 1.0):
        pass
    assert search.users == 8
    assert search.knee == Step(4, 390.0, 1.0)


def test_a_search_ends_with_the_users_there_are() -> None:
    search = KneeSearch(users_max=3, seconds=80)
    while not search.step_is_over(100.0 * search.users, 1.0):
        pass
    assert [step.users for step in search.steps] == [1, 2, 3]
    assert search.knee == Step(3, 300.0, 1.0)


def test_no_scenario_wants_what_is_not_measured() -> None:
    """
    With good figures for all its objectives a scenario is good in any shape, and without any one of them it is not.
    """
    good = {"above_limit": 0.0, "admitted_share": 1.0, "offered_times": 9.0}
    good |= {**USUAL, "retry_after_true": 1.0, "drift": 1.0}
    for scenario in SCENARIOS:
        for shape in SHAPES:
            findings = judge(scenario, shape, {}, good)
            assert all(finding.met for finding in findings), scenario
            for name in (finding.name for finding in findings):
                figures = {other: figure for other, figure in good.items() if other != name}
                assert not all(finding.met for finding in judge(scenario, shape, {}, figures))


def test_a_bar_can_be_moved() -> None:
    """A bar that is set replaces the default, and a missed objective is named with its figure and bar."""
    asked = {"p99_ms": 2.5, "error_rate": 0.5, "drift": 2.0}
    missed = [str(found) for found in judge("reads", "steady", asked, {**USUAL, "error_rate": 0.4}) if not found.met]
    assert missed == ["p99_ms is 3, bar <= 2.5: 99 of 100 answers came within so many milliseconds"]


def sent(times: list[tuple[float, int]]) -> list[Operation]:
    """Return requests that took 10 ms, with their statuses."""
    fields = ("u1", "transfer", "", "k", "/v1/transfers", "{}")
    return [Operation(*fields, at, at + 0.01, status=status) for at, status in times]


def test_a_limit_that_is_kept() -> None:
    """A limiter that admits the burst at once and then the rate meets the bars."""
    times = [(0.0, 201)] * 20 + [(n / 30, 201 if n % 3 == 0 else 429) for n in range(1, 301)]
    figures = accuracy(LIMIT, sent(times))
    assert figures["above_limit"] == pytest.approx(-0.1)
    assert figures["admitted_share"] == pytest.approx(1.2)
    assert figures["offered_times"] == pytest.approx(3.2)


def test_a_limit_that_is_not_kept() -> None:
    """Two requests too many are detected, and so is a limiter that admits too few."""
    assert accuracy(LIMIT, sent([(0.0, 201)] * 22))["above_limit"] > 1
    assert accuracy(LIMIT, sent([(n / 30, 201 if n % 6 == 0 else 429) for n in range(300)]))["admitted_share"] < 0.9
    assert accuracy(LIMIT, []) == {}


class _Chooser(Payer):
    """A payer that sends nothing, because only its choices are tested."""

    async def send(self, request: Request) -> Heard:
        raise NotImplementedError

    async def pause(self, seconds: float) -> None:
        raise NotImplementedError

    async def together(self, sendings: Sequence[Coroutine[Any, Any, Heard]]) -> list[Heard]:
        raise NotImplementedError


@pytest.fixture
def payer(tmp_path: Path) -> Iterator[Callable[[str], Payer]]:
    """A function that makes a payer from a seed."""
    habits = Habits(amount_max=500, items=20, at_once=3, pause_max=3.0, again_one_in=8)
    with Recorder(tmp_path / "history.jsonl") as recorder:

        def make(seed: str) -> Payer:
            return _Chooser(recorder, "u1", prefix="k", accounts=made().accounts, habits=habits, seed=seed)

        yield make


def test_the_same_seed_makes_the_same_traffic(payer: Callable[[str], Payer]) -> None:
    """The same seed makes the same choices, and a different seed makes different ones."""

    def choices(seed: str) -> list[tuple[str, str]]:
        one = payer(seed)
        return [one.pair() for _ in range(20)]

    assert choices("1") == choices("1")
    assert choices("1") != choices("2")


def test_few_accounts_get_most_of_the_reads(payer: Callable[[str], Payer]) -> None:
    one = payer("1")
    counts = Counter(one.busy_account() for _ in range(2_000))
    assert counts.most_common(1)[0][0] == made().accounts[0]
    assert sum(count for _, count in counts.most_common(5)) > 1_000


def test_hot_and_cold_pairs(payer: Callable[[str], Payer]) -> None:
    """The first account is in every hot pair and in no other pair."""
    one = payer("1")
    hot = made().accounts[0]
    for _ in range(200):
        assert hot in one.hot_pair()
        assert hot not in one.pair()
