"""Calls a server: finds its address and key in the environment, and turns its problems into exit codes."""

import argparse
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from server.cli.remote.amounts import in_decimals
from server.cli.words import Parser, Run
from server.process.commands.exits import EXIT_AWAY, EXIT_ERROR, EXIT_REFUSED, EXIT_UNKNOWN, complain, fail

if TYPE_CHECKING:
    from tallystick_client import ProblemError, Tallystick

DEFAULT_URL: Final = "http://127.0.0.1:8080"
# Seconds that a command goes on trying to get an answer: longer than a server takes to restart.
DEADLINE_SECONDS: Final = 30.0
DEADLINE_SECONDS_MAX: Final = 3_600.0

MISSING: Final = (
    "commands that call a server need the Python client and its packages: install client/ of this project and "
    "tallystick[cli], as `make setup` does"
)
NO_KEY: Final = (
    "no API key: set TALLYSTICK_API_KEY to the key, or TALLYSTICK_API_KEY_FILE to the name of a file that holds it"
)
# Characters that a header field can hold.
_KEY: Final = re.compile(r"[\x21-\x7e]{1,500}")
_URL: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#@]*)?", re.ASCII)
ELSEWHERE: Final = "this is not the address of a Tallystick server"
# Statuses of answers from something other than a Tallystick server: a web page, another service, or a TLS server that
# gets plain HTTP.
_ELSEWHERE: Final = frozenset({400, 404, 405})
# The code of a problem for a path that the server does not have.
_NO_PATH: Final = "not_found"
# Statuses of refusals by the ledger, and of problems that may pass with time.
_REFUSED: Final = frozenset({404, 409, 412, 422})
_LATER: Final = frozenset({408, 429})

# Advice for the caller, by the problem's `retry`.
_RETRY: Final = {
    "same_key": "send it again later, under the same key",
    "new_key": "it stays refused under this key: once the cause is gone, send it under a new key",
    "never": "change the request: if sent unchanged, it is refused again",
}

# Does what the command line asks for with a client, and returns the exit code.
Action = Callable[["Tallystick", argparse.Namespace], int]


def server() -> Parser:
    """Return the parent parser of commands that show a server's answer."""
    parent = Parser(add_help=False, parents=[way()])
    parent.add_argument("--json", action="store_true", help="print JSON, for programs; amounts are in minor units")
    return parent


def way() -> Parser:
    """Return the parent parser of all commands that may call a server."""
    parent = Parser(add_help=False)
    parent.add_argument("--url", help=f"address of the server (default: TALLYSTICK_URL, or {DEFAULT_URL})")
    parent.add_argument(
        "--deadline",
        type=_seconds,
        default=DEADLINE_SECONDS,
        metavar="SECONDS",
        help="how long to try to get an answer (default: %(default)g)",
    )
    return parent


def named_in_environment(name: str) -> bool:
    """Return whether the environment has this variable for commands against a server, or names a file for it."""
    return any(os.environ.get(f"TALLYSTICK_{name.upper()}{end}", "").strip() for end in ("", "_FILE"))


def on_server(action: Action) -> Run:
    """Return a function that runs an action on the server that the command line or the environment names."""
    return lambda options: _call(action, options)


def _call(action: Action, options: argparse.Namespace) -> int:
    from server.settings import read_client_variable

    try:
        from tallystick_client import AddressError, OutcomeUnknownError, ProblemError, Tallystick, UnavailableError
    except ImportError:
        return fail(MISSING)
    url = options.url if options.url is not None else read_client_variable("url") or DEFAULT_URL
    key = read_client_variable("api_key")
    if not _URL.fullmatch(url):
        return fail("the address of a server is http://HOST:PORT or https://HOST:PORT, without a user")
    if key is None:
        return fail(NO_KEY)
    if not _KEY.fullmatch(key):
        return fail("TALLYSTICK_API_KEY does not hold a key: a key has only letters, digits and _")
    try:
        with Tallystick(url=url, api_key=key, deadline_seconds=options.deadline) as client:
            return action(client, options)
    except OutcomeUnknownError as error:
        complain(f"tallystick: the outcome is unknown: {error}")
        complain("  what to do: check whether it was done before you try again")
        return EXIT_UNKNOWN
    except ProblemError as error:
        return complain_of(error)
    except AddressError as error:
        return fail(f"{ELSEWHERE}: {error}")
    except UnavailableError as error:
        complain(f"tallystick: {url} does not answer: {error}")
        return EXIT_AWAY
    except (ValueError, ImportError) as error:
        # An argument fits in no request, or httpx needs another package for the proxy.
        return fail(str(error))


def complain_of(error: "ProblemError") -> int:
    """Print a problem, what to do about it and the request's id; return the exit code."""
    name = f"{error.code} ({error.status})" if error.code else str(error.status)
    if _is_elsewhere(error):
        return fail(f"{name}: {ELSEWHERE}{f': {error.detail}' if error.status < 400 else ''}")
    detail, wrong = in_decimals(error.detail or error.title), list(error.errors)
    if len(wrong) == 1 and wrong[0].detail == error.detail:
        detail = f"{wrong.pop().pointer}: {detail}"
    complain(f"tallystick: {name}: {detail}")
    for each in wrong:
        complain(f"  {each.pointer}: {each.detail}")
    if error.code == "idempotency_key_reused":
        complain(f"  what to do: {_of_another(error)}")
    elif error.retry in _RETRY:
        complain(f"  what to do: {_RETRY[error.retry]}")
    if error.request_id:
        # The id is hexadecimal and would be masked, but it is no secret.
        complain(f"  request id: {error.request_id}", may_be_secret=False)
    # An answer without a code does not come from the ledger.
    if error.code and error.status in _REFUSED:
        return EXIT_REFUSED
    return EXIT_AWAY if error.status in _LATER or error.status >= 500 else EXIT_ERROR


def _is_elsewhere(error: "ProblemError") -> bool:
    """Return whether an answer shows that there is no Tallystick server at the address or under its path."""
    if error.code:
        return error.code == _NO_PATH
    return error.status < 400 or error.status in _ELSEWHERE


def _of_another(error: "ProblemError") -> str:
    """Return what to do if a key belongs to another payment, which is named if the answer names it."""
    transfer = error.problem.transfer_id
    named = "" if transfer is None else f" (transfer {transfer})"
    return f"the key belongs to another payment{named}: look at that payment, or send this one under a new key"


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]{1,3})?", text, re.ASCII) or not 0 < float(text) <= DEADLINE_SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"seconds are more than 0 and at most {DEADLINE_SECONDS_MAX:g}")
    return float(text)
