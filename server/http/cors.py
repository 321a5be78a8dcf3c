"""Cross-origin requests (Fetch, section 3.3): pages of the origins named in the settings may read answers."""

from collections.abc import Iterable
from typing import Final

from server.http.call import Call
from server.http.headers import VARY_ACCEPT, header
from server.http.reply import Reply

# What callers may send, and read of answers, besides what any page may.
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
# Seconds for which a browser need not ask again: as many as Chromium keeps; an origin is rarely taken off the list.
MAX_AGE_SECONDS: Final = 7_200
# No answer that a cache keeps for one origin is for another one, nor for none.
_VARY: Final = b"Vary: Origin\r\n"
_VARY_BOTH: Final = b"Vary: Accept, Origin\r\n"


class Cors:
    """
    What is said to pages of other origins; the only place that writes these header lines.

    Args:
        origins: Those whose pages may read answers, as browsers write them.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        exposed = header("Access-Control-Expose-Headers", ", ".join(_ANSWER_FIELDS))
        self._allowed = {origin: header("Access-Control-Allow-Origin", origin) + exposed for origin in origins}

    def with_fields(self, headers: bytes, origin: str) -> bytes:
        """Return the header lines of an answer, and those for a page of *origin*; empty is none."""
        if VARY_ACCEPT in headers:
            headers = headers.replace(VARY_ACCEPT, _VARY_BOTH)
        else:
            headers += _VARY
        return headers + self._allowed.get(origin, b"")

    def is_preflight(self, call: Call) -> bool:
        """Return whether a browser asks, for a page of an origin that is named, what it may send."""
        return (
            call.method == "OPTIONS"
            and call.head.origin in self._allowed
            and "Access-Control-Request-Method" in call.headers
        )

    def preflight(self, methods: Iterable[str]) -> Reply:
        """Return the answer to such a question, about a path that has these methods."""
        lines = (
            header("Access-Control-Allow-Methods", ", ".join(methods)),
            header("Access-Control-Allow-Headers", ", ".join(_REQUEST_FIELDS)),
            header("Access-Control-Max-Age", str(MAX_AGE_SECONDS)),
        )
        return Reply(204, b"", headers=b"".join(lines))
