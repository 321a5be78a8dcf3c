"""
What calls raise.

    TallystickError
    ├── ProblemError          the server said no; its problem says why and what to do
    │   └── RefusedError      the ledger refused it for ever under this key: another attempt needs a new key
    ├── UnavailableError      no answer in time, and nothing was done
    │   └── AddressError      what answers at the address is no Tallystick server: trying again is no use
    ├── OutcomeUnknownError   no answer in time, and it may have been done: send the same again under the same key
    └── WebhookError          a webhook whose signature does not hold
"""

from typing import Any

from tallystick_client.answers import FieldError, Problem
from tallystick_client.request import Request


class TallystickError(Exception):
    """The base of all errors of this package, but of wrong arguments, which are a ValueError or TypeError."""


class ProblemError(TallystickError):
    """
    The server said no.

    Args:
        problem: Its answer. Where something else has answered, only the status is known, and `code` is empty.

    Attributes:
        problem: The same.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        named = f"{self.status} {self.code}".rstrip()
        return f"{named}: {self.detail or self.title}"

    @property
    def status(self) -> int:
        """The status of HTTP."""
        return self.problem.status

    @property
    def code(self) -> str:
        """The kind of problem, as `insufficient_funds`."""
        return self.problem.code

    @property
    def title(self) -> str:
        """The kind of problem in words."""
        return self.problem.title

    @property
    def detail(self) -> str:
        """What is wrong with this request."""
        return self.problem.detail

    @property
    def outcome(self) -> str | None:
        """On writes: `not_applied`, `refused` or `unknown`."""
        return self.problem.outcome

    @property
    def retry(self) -> str | None:
        """On writes: `same_key`, `new_key` or `never`."""
        return self.problem.retry

    @property
    def request_id(self) -> str:
        """What the server's log calls the request."""
        return self.problem.request_id

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """On 400: the members that are wrong."""
        return self.problem.errors


class RefusedError(ProblemError):
    """
    The state of the ledger refused a transfer: too little available, an account that does not exist or is closed.

    The refusal is bound to the key and stays. Another try, when the state has changed, is a new payment with a new key.
    """


class UnavailableError(TallystickError):
    """The server could not be reached in time, or did not answer a read; nothing was changed."""


class AddressError(UnavailableError):
    """What answers at the address is no Tallystick server, or does not speak TLS; nothing was changed."""


class OutcomeUnknownError(TallystickError):
    """
    A write may have been done, and time was up before its answer came.

    Send the same again, `client.send(error.request)`, when the server is back: under the same key it is done at most
    once. A request without a key, such as the creation of an API key, has to be looked for in its list.

    Args:
        request: What was sent.

        reason: What happened to it.

    Attributes:
        request: The same.

        reason: The same.
    """

    def __init__(self, request: Request[Any], reason: str) -> None:
        super().__init__(request, reason)
        self.request = request
        self.reason = reason

    def __str__(self) -> str:
        under = "" if self.request.key is None else f" under the key {self.request.key}"
        return f"{self.request}{under} may have been done: {self.reason}"

    @property
    def idempotency_key(self) -> str | None:
        """The key of the transfer; None of a bulk, whose items have theirs, and of what has no key."""
        return self.request.key


class WebhookError(TallystickError):
    """A webhook that must not be trusted: its signature does not hold, or it is too old."""
