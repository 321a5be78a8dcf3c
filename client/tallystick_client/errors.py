"""
The errors that calls raise.

    TallystickError
    ├── ProblemError          the server answered with a problem, which says why and what to do
    │   └── RefusedError      the ledger refused it for ever under this key: another attempt needs a new key
    ├── UnavailableError      no answer came in time, and nothing was done
    │   └── AddressError      the address is not that of a Tallystick server: do not try again
    ├── OutcomeUnknownError   no answer came in time, and it may have been done: send it again under the same key
    └── WebhookError          the signature of a webhook is not valid
"""

from typing import Any

from tallystick_client.answers import FieldError, Problem
from tallystick_client.request import Request


class TallystickError(Exception):
    """The base of all errors of this package, except wrong arguments, which raise ValueError or TypeError."""


class ProblemError(TallystickError):
    """
    The server answered with a problem.

    Args:
        problem: The problem. If something other than the server has answered, `code` is empty and only the status is
            known.

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
        """The HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """The kind of problem, for example `insufficient_funds`."""
        return self.problem.code

    @property
    def title(self) -> str:
        """The kind of problem in words."""
        return self.problem.title

    @property
    def detail(self) -> str:
        """The reason why this request failed."""
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
        """The id of the request in the server's log."""
        return self.problem.request_id

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """On 400: the members that are wrong."""
        return self.problem.errors


class RefusedError(ProblemError):
    """
    The ledger refused a transfer, for example because of too little money, or because an account is missing or closed.

    The refusal is bound to the key for ever. Another attempt after the state has changed needs a new key.
    """


class UnavailableError(TallystickError):
    """The server could not be reached in time, or did not answer a read; nothing was changed."""


class AddressError(UnavailableError):
    """The address is not that of a Tallystick server, or the server does not speak TLS; nothing was changed."""


class OutcomeUnknownError(TallystickError):
    """
    A write may have been done, but its answer did not come before the deadline.

    When the server is back, send the request again with `client.send(error.request)`: under the same key it is done at
    most once. For a request without a key, such as the creation of an API key, look in the list for its result.

    Args:
        request: The request that was sent.

        reason: Why its outcome is unknown.

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
        """The key of the request; None for a bulk, whose items have their own keys, and for a request without a key."""
        return self.request.key


class WebhookError(TallystickError):
    """A webhook must not be trusted: its signature is not valid, or it is too old."""
