"""Decides which requests the console admits: they need its token and a host name that no other site can use."""

import asyncio
import hmac
import ipaddress
import json
from typing import Final

import yarl
from aiohttp import web

# So many wrong tokens are answered 401 in this many seconds, more than a tab that was left open sends; further ones get
# 429. The right token is always admitted, so that nobody can lock others out; its length prevents guessing.
FAILURES_MAX: Final = 20
FAILURES_SECONDS: Final = 60.0


class Guard:
    """
    Refuses requests that may not use the console.

    Args:
        token: The token of the console.

        host: The address on which operators are answered, as in the settings.
    """

    def __init__(self, token: str, host: str) -> None:
        self._token = token.encode()
        self._host = host.lower()
        # When the current period began, on the loop's clock, and the number of wrong tokens in it.
        self._since = 0.0
        self._failures = 0

    def refused_name(self, request: web.Request) -> web.Response | None:
        """
        Return a refusal if the request's host name is not the server's own, otherwise None.

        Another site can make its own name point to this machine (DNS rebinding), and the browser then treats both as
        one site.
        """
        try:
            name = (yarl.URL(f"http://{request.headers.get('Host', '')}").host or "").lower()
        except ValueError:
            name = ""
        if name in ("localhost", self._host) or _is_address(name):
            return None
        return refusal(421, "Open the console at an address such as 127.0.0.1, or at localhost.")

    def refused_token(self, request: web.Request) -> web.Response | None:
        """Return a refusal if the request does not have the token, otherwise None."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer"
        if is_bearer and hmac.compare_digest(token.strip().encode(errors="surrogateescape"), self._token):
            return None
        if token and not self._has_patience():
            answer = refusal(429, "There were too many wrong tokens. Wait a minute.")
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
    """Return an answer that refuses a request and says why."""
    body = json.dumps({"status": status, "detail": detail})
    return web.Response(status=status, text=body, content_type="application/problem+json")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
