"""Whom the console lets in: who has its token, and asks for it by a name that no stranger's page can take."""

import asyncio
import hmac
import ipaddress
import json
from typing import Final

import yarl
from aiohttp import web

# Wrong tokens that are answered 401 in a while, and its seconds; more than a tab that was left open sends. The right
# one is always let in, so that nobody can keep others out: its length is what keeps it from being guessed.
FAILURES_MAX: Final = 20
FAILURES_SECONDS: Final = 60.0


class Guard:
    """
    Refuses who may not enter.

    Args:
        token: Of the console.

        host: The address on which operators are answered, as it was set.
    """

    def __init__(self, token: str, host: str) -> None:
        self._token = token.encode()
        self._host = host.lower()
        # When the present while began, on the clock of the loop, and the wrong tokens in it.
        self._since = 0.0
        self._failures = 0

    def refused_name(self, request: web.Request) -> web.Response | None:
        """
        Return the answer to a request under a name that is not the server's own; None where it is.

        A page elsewhere can have its own name point to this machine, and the browser then takes both for one site.
        """
        try:
            name = (yarl.URL(f"http://{request.headers.get('Host', '')}").host or "").lower()
        except ValueError:
            name = ""
        if name in ("localhost", self._host) or _is_address(name):
            return None
        return refusal(421, "Ask for the console by an address such as 127.0.0.1, or as localhost.")

    def refused_token(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request without the token; None where it has it."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer"
        if is_bearer and hmac.compare_digest(token.strip().encode(errors="surrogateescape"), self._token):
            return None
        if token and not self._has_patience():
            answer = refusal(429, "Too many wrong tokens came. Wait a minute.")
            answer.headers["Retry-After"] = str(round(FAILURES_SECONDS))
            return answer
        wrong = "The token is wrong. " if is_bearer and token else ""
        answer = refusal(401, f"{wrong}This needs the token of the console, which `tallystick serve` printed.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _has_patience(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._since > FAILURES_SECONDS:
            self._since, self._failures = now, 0
        self._failures += 1
        return self._failures <= FAILURES_MAX


def refusal(status: int, detail: str) -> web.Response:
    """Return an answer that says why there is no other."""
    body = json.dumps({"status": status, "detail": detail})
    return web.Response(status=status, text=body, content_type="application/problem+json")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
