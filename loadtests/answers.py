"""
What the ledger answers, as far as a client looks at it: success, not now, or something unexpected.
"""

import msgspec

STATUSES_REPEATED = frozenset({408, 429, 503})
# 409, but about another request that still runs: the contract has the caller ask again.
CODES_REPEATED = frozenset({"idempotency_key_in_use"})


class Answer(msgspec.Struct, frozen=True):
    """What the ledger answered; *repeated* tells that an earlier attempt had got no answer."""

    status: int
    body: bytes
    replayed: bool
    repeated: bool = False


class AccountState(msgspec.Struct, frozen=True):
    """The part of an account that the checks look at."""

    id: str
    currency: str
    balance: int
    version: int


class ClientError(Exception):
    """A call of the ledger did not do what it was meant to do."""


class UnexpectedAnswer(ClientError):
    """The ledger answered, but not with success and not with a request to come back."""

    def __init__(self, asked: str, status: int, body: bytes) -> None:
        self.status = status
        problem = problem_of(body)
        text = f"{asked} answered {status} {problem.code or '(no problem code)'}"
        super().__init__(f"{text}: {problem.detail}" if problem.detail else text)


class GaveUp(ClientError):
    """Every attempt that the limits allow ended in a refusal for now or without an answer."""


class NotNow(Exception):
    """One attempt was turned away or lost; the same request may be sent again."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class Request(msgspec.Struct, frozen=True):
    """One request as it is sent, the same bytes on every attempt."""

    method: str
    path: str
    body: bytes | None = None
    key: str | None = None
    items: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" with key {self.key}" if self.key else "")


class Problem(msgspec.Struct):
    """The part of a problem document that a person is told; empty when there was none."""

    code: str = ""
    detail: str = ""


class Item(msgspec.Struct):
    """One result of a bulk request, with the transfer's bytes as they were received."""

    status: int
    replayed: bool = False
    transfer: msgspec.Raw = msgspec.Raw(b"")
    problem: msgspec.Raw = msgspec.Raw(b"")


class _Items(msgspec.Struct):
    results: list[Item]


class Page(msgspec.Struct):
    """One page of the list of accounts."""

    data: list[AccountState]
    next_cursor: str | None


def raise_unless_answered(request: Request, answer: Answer, retry_after: str | None) -> None:
    """Tell success from a refusal for now and from everything else."""
    if answer.status in (200, 201):
        if request.items:
            _raise_if_an_item_was_not_now(request, answer)
        return
    code = problem_of(answer.body).code
    if answer.status in STATUSES_REPEATED or code in CODES_REPEATED:
        raise NotNow(f"{answer.status} {code}", _seconds(retry_after))
    raise UnexpectedAnswer(str(request), answer.status, answer.body)


def _raise_if_an_item_was_not_now(request: Request, answer: Answer) -> None:
    # Accounts and atomic sets can be sent again whole: what is there already is replayed.
    for item in items_of(request, answer):
        if item.status in STATUSES_REPEATED:
            raise NotNow(f"{item.status} {problem_of(bytes(item.problem)).code} for an item")


def items_of(request: Request, answer: Answer) -> list[Item]:
    """The results of a bulk request, in the order of its items."""
    try:
        return msgspec.json.decode(answer.body, type=_Items).results
    except msgspec.DecodeError as error:
        raise ClientError(f"{request} answered something else: {error}") from error


def problem_of(body: bytes) -> Problem:
    """The problem document in the body of an error."""
    # A balancer's error page has no problem in it; the status alone has to do then.
    try:
        return msgspec.json.decode(body, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem()


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:
        return None
