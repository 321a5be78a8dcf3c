"""Cross-origin requests (Fetch, section 3.3): pages of the origins named in the settings may read answers."""

from collections.abc import Iterable
from typing import Final

from server.http.call import Call
from server.http.headers import VARY_ACCEPT, header
from server.http.reply import Reply

# The header fields that pages may send, and may read of answers, besides those that any page may.
_REQUEST_FIELDS: Final = (
    "Accept",
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-Id",
    "traceparent",
)
_ANSWER_FIELDS: Final = (
    "Allow",
    "ETag",
    "Idempotent-Replayed",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)
# Seconds for which a browser may keep a preflight's answer: the most that Chromium accepts. Origins are rarely removed.
MAX_AGE_SECONDS: Final = 7_200
# A cached answer for one origin is not valid for another, nor for a request without an origin.
_VARY: Final = b"Vary: Origin\r\n"
_VARY_BOTH: Final = b"Vary: Accept, Origin\r\n"


class Cors:
    """
    Writes the header lines for pages of other origins; nothing else writes them.

    Args:
        origins: The origins whose pages may read answers, as browsers write them.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        exposed = header("Access-Control-Expose-Headers", ", ".join(_ANSWER_FIELDS))
        self._allowed = {origin: header("Access-Control-Allow-Origin", origin) + exposed for origin in origins}

    def with_fields(self, headers: bytes, origin: str) -> bytes:
        """Return the header lines of an answer with those for a page of *origin*; an empty text is no origin."""
        if VARY_ACCEPT in headers:
            headers = headers.replace(VARY_ACCEPT, _VARY_BOTH)
        else:
            headers += _VARY
        return headers + self._allowed.get(origin, b"")

    def is_preflight(self, call: Call) -> bool:
        """Return whether a request is a preflight for a page of an allowed origin."""
        return (
            call.method == "OPTIONS"
            and call.head.origin in self._allowed
            and "Access-Control-Request-Method" in call.headers
        )

    def preflight(self, methods: Iterable[str]) -> Reply:
        """Return the answer to a preflight for a path that has these methods."""
        lines = (
            header("Access-Control-Allow-Methods", ", ".join(methods)),
            header("Access-Control-Allow-Headers", ", ".join(_REQUEST_FIELDS)),
            header("Access-Control-Max-Age", str(MAX_AGE_SECONDS)),
        )
        return Reply(204, b"", headers=b"".join(lines))
