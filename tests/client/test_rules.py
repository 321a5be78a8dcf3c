"""The rules without a network: whatever is lost, refused or late, the caller is told the truth."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick_client import (
    Account,
    ApiKey,
    OutcomeUnknownError,
    Posted,
    ProblemError,
    RefusedError,
    TallystickError,
    UnavailableError,
)
from tallystick_client.request import Repeat, Request
from tallystick_client.rules import Answer, Broken, Pause, Rules, Send

DEADLINE_SECONDS = 10.0
PAYMENT: dict[str, Any] = {"source": "alice", "destination": "shop", "amount": 5, "currency": "EUR"}
NOW = "2026-02-01T12:00:00.000001Z"
POSTED: dict[str, Any] = {
    **PAYMENT,
    "id": "0198b2c4-0000-7000-8000-000000000001",
    "kind": "transfer",
    "state": "posted",
    **dict.fromkeys(("parent", "reference", "description")),
    **dict.fromkeys(("source_balance", "destination_balance", "source_version", "destination_version"), 1),
    "metadata": {},
    "effective_at": NOW,
    "created_at": NOW,
}
HTML = b"<html><body>Bad Gateway</body></html>"


def problem(status: int, code: str, outcome: str, retry: str, **more: object) -> Answer:
    """Return an answer with a problem."""
    body = {"status": status, "code": code, "title": code, "detail": code, "outcome": outcome, "retry": retry, **more}
    return Answer(status, {"content-type": "application/problem+json"}, json.dumps(body).encode())


REFUSED = problem(409, "insufficient_funds", "refused", "new_key")


class Ledger:
    """
    The ledger of one payment, behind a network that loses requests and answers.

    Args:
        funded: Whether the payment can be made.

    Attributes:
        posted: How often money has moved.
    """

    def __init__(self, *, funded: bool) -> None:
        self.funded = funded
        self.posted = 0
        self.first: Answer | None = None

    def post(self) -> Answer:
        """Execute the payment once under its key, and repeat the first answer."""
        if self.first is None:
            self.posted += self.funded
            self.first = Answer(201, {}, json.dumps(POSTED).encode()) if self.funded else REFUSED
            return self.first
        return self.first._replace(headers={**self.first.headers, "idempotent-replayed": "true"})

    def look_up(self) -> Answer:
        """Return what the key is bound to."""
        if self.first is None:
            return Answer(404, {}, b'{"status": 404, "code": "idempotency_key_not_found"}')
        if self.first == REFUSED:
            return Answer(
                200, {}, json.dumps({**POSTED, "state": "refused", "problem": json.loads(REFUSED.body)}).encode()
            )
        return Answer(200, {}, json.dumps({**POSTED, "hold": None, "reversed": 0}).encode())

    def hear(self, request: Request[Any], fate: str) -> Answer | Broken:
        """Return what the client gets for a request with this fate."""
        if fate in UNDONE:
            return UNDONE[fate]
        answer = self.post() if request.method == "POST" else self.look_up()
        if fate == "half":
            return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2])
        if fate == "answer":
            return Broken("the answer is lost", sent=True)
        return Answer(502, {}, HTML) if fate == "502 afterwards" else answer


# Fates of requests that do not arrive or are refused, with what the client gets.
UNDONE: dict[str, Answer | Broken] = {
    "refused connection": Broken("ConnectError", sent=False),
    "request": Broken("the request is lost", sent=True),
    "502": Answer(502, {}, HTML),
    "html 503": Answer(503, {"retry-after": "1"}, HTML),
    "503": problem(503, "overloaded", "not_applied", "same_key"),
    "503 unknown": problem(503, "unavailable", "unknown", "same_key"),
    "429": problem(429, "quota_exceeded", "not_applied", "same_key", retry_after_ms=700),
    "429 for long": Answer(429, {"retry-after": "3600"}, HTML),
    "in use": problem(409, "idempotency_key_in_use", "not_applied", "same_key"),
    "401": problem(401, "unauthorized", "not_applied", "same_key"),
    "413": Answer(413, {}, HTML),
    "302": Answer(302, {"location": "https://elsewhere"}, b""),
}
FATES = st.sampled_from(["well", "half", "answer", "502 afterwards", *UNDONE])


class Run:
    """
    A recorded run, with a clock that only its steps move.

    Attributes:
        sent: The requests.

        value: The result.

        error: The error raised instead.
    """

    def __init__(self, ledger: Ledger, request: Request[Any], fates: Any, seconds: Any) -> None:
        self.now = 0.0
        self.sent: list[Request[Any]] = []
        self.pauses: list[float] = []
        self.value: Any = None
        self.error: TallystickError | None = None
        course = Rules(DEADLINE_SECONDS, lambda: self.now).call(request)
        heard: Answer | Broken | None = None
        try:
            while True:
                step = course.send(heard)
                heard = None
                if isinstance(step, Pause):
                    self.now += step.seconds
                    self.pauses.append(step.seconds)
                else:
                    assert isinstance(step, Send)
                    assert 0 < step.seconds <= DEADLINE_SECONDS - self.now
                    self.sent.append(step.request)
                    self.now += min(step.seconds, next(seconds))
                    heard = ledger.hear(step.request, next(fates))
        except StopIteration as end:
            self.value = end.value
        except TallystickError as error:
            self.error = error
        assert self.now <= DEADLINE_SECONDS


def forever(values: list[Any], last: Any) -> Any:
    """Yield values, and then always the last one."""
    yield from values
    while True:
        yield last


def paying(**options: Any) -> Request[Posted]:
    """Return the request of a payment."""
    chosen = {"key": "k1", "repeat": Repeat.KEYED, **options}
    return Request(method="POST", path="/v1/transfers", answer=Posted, body=PAYMENT, **chosen)


@given(st.booleans(), st.lists(FATES, max_size=12), FATES, st.lists(st.floats(0, 20), max_size=12))
def test_what_is_told_is_true(funded: bool, fates: list[str], last: str, seconds: list[float]) -> None:
    """A payment is made at most once and reported truly; an unknown outcome is reported with key and request."""
    ledger, request = Ledger(funded=funded), paying()
    run = Run(ledger, request, forever(fates, last), forever(seconds, 0.001))
    assert ledger.posted <= 1
    assert {sent.key for sent in run.sent if sent.method == "POST"} == {"k1"}
    match run.error:
        case None:
            assert (run.value.id, ledger.posted) == (POSTED["id"], 1)
        case OutcomeUnknownError(idempotency_key=key, request=unsure):
            assert (key, unsure) == ("k1", request)
        case RefusedError(code=code):
            assert (code, ledger.posted, ledger.first) == ("insufficient_funds", 0, REFUSED)
        case ProblemError() | UnavailableError():
            assert (ledger.posted, ledger.first) == (0, None)


@pytest.mark.parametrize(
    ("fates", "replayed"),
    [([], False), (["request"], False), (["answer"], True), (["answer", "401"], True)],
    ids=["posted", "posted by the second attempt", "posted by the first attempt", "looked up"],
)
def test_whether_a_key_was_bound_before(fates: list[str], replayed: bool) -> None:
    """A caller is told whether the answer comes from an earlier attempt, in this call or before."""
    run = Run(Ledger(funded=True), paying(), forever(fates, "well"), forever([], 0.0))
    assert (type(run.value), run.value.replayed) == (Posted, replayed)


@given(st.lists(FATES, max_size=12), FATES)
def test_what_has_no_key_is_not_done_twice(fates: list[str], last: str) -> None:
    """A request without a key is sent again only while it cannot have been done."""
    done = []

    class Once(Ledger):
        def post(self) -> Answer:
            done.append(1)
            return Answer(201, {}, json.dumps({"id": "1", "role": "read", "created_at": NOW}).encode())

    request = Request(method="POST", path="/v1/api-keys", answer=ApiKey, body={}, repeat=Repeat.NOTHING)
    run = Run(Once(funded=True), request, forever(fates, last), forever([], 0.001))
    assert len(done) <= 1
    assert run.value is not None if run.error is None else bool(done) <= isinstance(run.error, OutcomeUnknownError)
    assert all(sent.method == "POST" for sent in run.sent)


@pytest.mark.parametrize(
    ("fate", "pause_min", "pause_max"),
    [
        ("429", 0.7, 1.05),
        ("html 503", 1.0, 1.5),
        ("503", 0.1, 0.15),
        ("refused connection", 0.1, 0.15),
    ],
)
def test_pauses_are_those_asked_for(fate: str, pause_min: float, pause_max: float) -> None:
    """Exact milliseconds take precedence over seconds; a pause is never shorter than asked for, and varies."""
    pauses = set()
    for _ in range(20):
        run = Run(Ledger(funded=True), paying(), forever([fate], "well"), forever([], 0.0))
        assert run.value is not None
        pauses.update(run.pauses)
    assert pause_min <= min(pauses)
    assert max(pauses) <= pause_max
    assert len(pauses) > 1


@pytest.mark.parametrize(
    ("fates", "attempts", "kind", "told"),
    [
        (["429 for long"], 1, ProblemError, "429"),
        (["401"], 1, ProblemError, "401 unauthorized"),
        (["302"], 1, ProblemError, "302: Redirects are not followed; this one leads to https://elsewhere"),
        (["413"], 1, ProblemError, "413: The answer does not come from Tallystick"),
        (["request", "401"], 3, OutcomeUnknownError, "under the key k1 may have been done: 401 unauthorized"),
    ],
)
def test_what_ends_a_call(fates: list[str], attempts: int, kind: type[TallystickError], told: str) -> None:
    """A pause beyond the deadline is not started, and an error that needs a person is raised at once."""
    run = Run(Ledger(funded=True), paying(), forever(fates, fates[-1]), forever([], 0.0))
    assert (len(run.sent), type(run.error)) == (attempts, kind)
    assert told in str(run.error)


@pytest.mark.parametrize(
    ("found", "fields"),
    [
        ({"amount": 6}, ("amount",)),
        ({"kind": "hold", "reference": "r"}, ("reference", "kind")),
        ({"metadata": {"a": "b"}}, ("metadata",)),
        ({"source": None, "state": "refused", "amount": 7}, ("amount",)),
        ({"effective_at": "2020-01-01T00:00:00.000000Z"}, ("effective_at",)),
        (
            {
                "kind": "hold",
                "hold": {"state": "open", "captured": 0, "remaining": 5, "expires_at": "2020-01-01T00:00:00.000000Z"},
            },
            ("kind", "expires_in"),
        ),
    ],
)
def test_a_key_of_another_payment(found: dict[str, Any], fields: tuple[str, ...]) -> None:
    """If a lookup finds another payment under the key, this one is not reported as made."""

    class Other(Ledger):
        def look_up(self) -> Answer:
            return Answer(200, {}, json.dumps({**POSTED, **found}).encode())

    run = Run(Other(funded=True), paying(), forever(["request", "401"], "well"), forever([], 0.0))
    assert isinstance(run.error, ProblemError)
    assert (run.error.code, run.error.problem.fields) == ("idempotency_key_reused", fields)


def test_a_change_that_may_have_been_made() -> None:
    """A 412 after a lost answer is an unknown outcome, because the change itself may have moved the version."""

    class Changed(Ledger):
        def post(self) -> Answer:
            return problem(412, "precondition_failed", "not_applied", "never")

    request = Request(method="POST", path="/v1/accounts/a", answer=Account, body={}, if_version=1, repeat=Repeat.KEYED)
    assert isinstance(
        Run(Changed(funded=True), request, forever(["request"], "well"), forever([], 0.0)).error, OutcomeUnknownError
    )
    run = Run(Changed(funded=True), request, forever([], "well"), forever([], 0.0))
    assert type(run.error) is ProblemError
