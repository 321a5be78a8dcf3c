"""Value dates: the instant at which a transfer takes effect, apart from when it was posted."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from tests.api.holding import followed, held, paid
from tests.api.steps import bound, bulk, codes, order, post
from tests.support.client import Client
from tests.support.clock import BooksClock

MOMENT = timedelta(microseconds=1)
# Fractional digits of a second, more than are kept.
DIGITS = "123456789012345678901234567890"


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("2020-01-01T00:00:00Z", "2020-01-01T00:00:00.000000Z", id="an instant"),
        pytest.param("2020-01-01T00:00:00.5Z", "2020-01-01T00:00:00.500000Z", id="half a second"),
        pytest.param("2020-01-01T00:00:00.999999999Z", "2020-01-01T00:00:00.999999Z", id="cut, never rounded"),
        pytest.param(f"2020-01-01T00:00:00.{DIGITS}Z", "2020-01-01T00:00:00.123456Z", id="thirty digits"),
        pytest.param("2020-01-01T01:30:00+01:30", "2020-01-01T00:00:00.000000Z", id="ahead of UTC"),
        pytest.param("2019-12-31T14:00:00-10:00", "2020-01-01T00:00:00.000000Z", id="behind UTC"),
        pytest.param(f"2020-01-01T05:45:00.{DIGITS}+05:45", "2020-01-01T00:00:00.123456Z", id="both"),
        pytest.param("2020-02-29T23:59:59Z", "2020-02-29T23:59:59.000000Z", id="a leap day"),
        pytest.param("1582-10-10T00:00:00Z", "1582-10-10T00:00:00.000000Z", id="a day that some calendars leave out"),
    ],
)
async def test_a_date_is_shown_in_utc(funded: Client, text: str, shown: str) -> None:
    """Any offset is accepted, and digits past the microsecond are cut."""
    for is_hold in (False, True):
        answer = await post(funded, order(effective_at=text, hold=is_hold), f"key-{is_hold}")
        assert (answer.status, answer.json["effective_at"]) == (201, shown), answer
        assert answer.json["created_at"] > "2026"
        assert (await bound(funded, f"key-{is_hold}")).json["effective_at"] == shown
    [item] = await bulk(funded, [{"key": "item", **order(effective_at=text)}])
    assert item["transfer"]["effective_at"] == shown


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("2999-01-01T00:00:00Z", id="to come"),
        pytest.param("9999-12-31T23:59:59.999999Z", id="the last instant"),
        pytest.param("9999-12-31T23:59:59-23:59", id="past the last instant"),
        pytest.param("0001-01-01T00:00:00+00:01", id="before the first instant"),
        pytest.param("0000-01-01T00:00:00Z", id="year zero"),
        pytest.param("-001-01-01T00:00:00Z", id="before year zero"),
        pytest.param("2020-01-01T00:00:00", id="without an offset"),
        pytest.param("2020-01-01", id="a day"),
        pytest.param("2019-02-29T00:00:00Z", id="no leap day"),
        pytest.param("2020-01-01T24:00:00Z", id="hour 24"),
        pytest.param("2020-01-01T00:60:00Z", id="minute 60"),
        pytest.param("2020-13-01T00:00:00Z", id="month 13"),
        pytest.param("2020-01-01T00:00:00+24:00", id="an offset of a day"),
        pytest.param("2020-01-01T00:00:00.Z", id="a point without digits"),
        pytest.param("2020-W01-1T00:00:00Z", id="a week"),
        pytest.param("\uff12\uff10\uff12\uff10-01-01T00:00:00Z", id="foreign digits"),
        pytest.param("0002-01-01T00:00:00+14:00", id="year 1 in UTC"),
        pytest.param("0001-01-01T00:00:00+14:00", id="before all years in UTC"),
        pytest.param("9998-12-31T23:59:59-14:00", id="year 9999 in UTC"),
        pytest.param("now", id="a word"),
        pytest.param("", id="nothing"),
        pytest.param(1_577_836_800, id="a number"),
        pytest.param(True, id="a boolean"),
    ],
)
async def test_a_date_that_cannot_be_is_pointed_at(funded: Client, value: object) -> None:
    """A malformed or future date is a 400 that binds no key, alone, in bulk and in a set."""
    single = await post(funded, order(effective_at=value), "key")
    assert (single.status, single.code, single.json["outcome"]) == (400, "invalid_request", "not_applied"), single
    assert single.json["errors"][0]["pointer"] == "/effective_at"
    for atomic in (False, True):
        items = [{"key": "key", **order(effective_at=value)}, {"key": f"other-{atomic}", **order()}]
        results = await bulk(funded, items, atomic=atomic)
        assert codes(results) == ["invalid_request", "linked_failed" if atomic else 201]
        assert results[0]["problem"]["errors"][0]["pointer"] == "/transfers/0/effective_at"
    assert [(await bound(funded, key)).status for key in ("key", "other-True")] == [404, 404]
    assert (await post(funded, order(), "key")).status == 201


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("0001-01-01T00:00:00Z", ("0001-01-01T00:00:00",), id="the first year"),
        pytest.param("2016-12-31T23:59:60Z", ("2016-12-31T23:59:59", "2017-01-01T00:00:00"), id="a leap second"),
        pytest.param("2020-01-01t00:00:00z", ("2020-01-01T00:00:00",), id="small letters"),
        pytest.param("2020-01-01 00:00:00Z", ("2020-01-01T00:00:00",), id="a space"),
        pytest.param("2020-01-01T00:00:00-00:00", ("2020-01-01T00:00:00",), id="an unknown offset"),
        pytest.param("2020-01-01T00:00Z", ("2020-01-01T00:00:00",), id="without seconds"),
        pytest.param("20200101T000000Z", ("2020-01-01T00:00:00",), id="without separators"),
        pytest.param("2020-01-01T00:00:00,5Z", ("2020-01-01T00:00:00",), id="a comma"),
    ],
)
async def test_a_date_at_the_edge_is_taken_right_or_pointed_at(
    funded: Client, text: str, shown: tuple[str, ...]
) -> None:
    """A form that RFC 3339 leaves open is either read correctly or refused, never read as another instant."""
    answer = await post(funded, order(effective_at=text), "key")
    if answer.status == 400:
        assert answer.json["errors"][0]["pointer"] == "/effective_at"
    else:
        assert (answer.status, answer.json["effective_at"].partition(".")[0] in shown) == (201, True), answer


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("0001-01-01T00:00:00Z", "The year in UTC must be 0002 to 9998.", id="the first year"),
        pytest.param("9999-12-31T23:59:59Z", "The year in UTC must be 0002 to 9998.", id="the last year"),
        pytest.param("0001-01-01T00:00:00+14:00", "The year in UTC must be 0002 to 9998.", id="before all years"),
        pytest.param("2016-12-31T23:59:60Z", "Leap seconds are not supported: ", id="a leap second"),
        pytest.param("2020-01-01T00:00:00", "An instant with an offset is expected", id="without an offset"),
    ],
)
async def test_an_instant_that_is_not_taken_is_told_why(funded: Client, text: str, says: str) -> None:
    """A refused instant has the same reason alone, in bulk and in a query."""
    single = await post(funded, order(effective_at=text), "key")
    [item] = await bulk(funded, [{"key": "key", **order(effective_at=text)}])
    listed = await funded.get(f"/v1/transfers?from={quote(text)}")
    for problem in (single.json, item["problem"], listed.json):
        assert problem["detail"].startswith(says)


async def test_now_is_what_the_books_say(timed: Client, clock: BooksClock) -> None:
    """Whether a date is in the future is decided by the ledger's clock, to the microsecond."""
    await timed.fund("alice", 100)
    await timed.open("bob")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert (await post(timed, order(effective_at=tomorrow.isoformat()), "early")).status == 400
    await clock.stop_at(tomorrow - MOMENT)
    assert (await post(timed, order(effective_at=tomorrow.isoformat()), "early")).status == 400
    await clock.stop_at(tomorrow)
    answer = await post(timed, order(effective_at=tomorrow.isoformat()), "early")
    assert (answer.status, answer.replayed) == (201, False)
    assert answer.json["effective_at"] <= answer.json["created_at"]


async def test_the_balance_of_a_day_counts_what_was_posted_later(funded: Client) -> None:
    """A back-dated transfer changes past balances by value date, but not those by posting."""

    async def balance(at: str, by: str) -> int:
        answer = await funded.get(f"/v1/accounts/alice/balance?at={quote(at)}&by={by}")
        assert answer.status == 200, answer
        return int(answer.json["balance"])

    for amount, day in ((10, "2020-01-10"), (20, "2020-01-05"), (5, "2020-01-10")):
        await paid(funded, amount, effective_at=f"{day}T12:00:00Z")
    days = ("2020-01-04T00:00:00Z", "2020-01-05T12:00:00Z", "2020-01-10T11:59:59.999999Z", "2020-01-10T12:00:00Z")
    assert [await balance(day, "effective") for day in days] == [0, -20, -20, -35]
    assert [await balance(day, "created") for day in days] == [0, 0, 0, 0]
    assert await funded.balance("alice") == 65


async def test_what_follows_counts_for_its_own_instant(funded: Client) -> None:
    """A capture or reversal of a back-dated transfer takes effect when it is posted."""
    parent = await held(funded, 10, effective_at="2020-01-01T00:00:00Z")
    for kind, of in (("capture", parent), ("reversal", await paid(funded, 1, effective_at="2020-01-01T00:00:00Z"))):
        row = await followed(funded, kind, of)
        assert row["effective_at"] == row["created_at"] > "2026"


async def test_a_date_makes_no_difference_to_funds(funded: Client) -> None:
    """A back-dated transfer is paid from the funds of today."""
    assert (await post(funded, order(amount=101, effective_at="2020-01-01T00:00:00Z"), "a")).code == (
        "insufficient_funds"
    )
    await paid(funded, 100, effective_at="2020-01-01T00:00:00Z")
    assert await funded.balance("alice") == 0
