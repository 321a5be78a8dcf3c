"""The header fields of a request. Requests of a connection that repeat them are checked only once."""

import re
from typing import Final

from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from server.gate.tokens import token_name
from server.http.amounts import asks_for_strings
from server.http.limits import HEADERS_MAX_BYTES, REQUEST_ID_LENGTH_MAX
from server.http.problems import Problem, invalid

# The form of a request id that is safe to repeat in headers, logs and JSON.
REQUEST_ID_FORM: Final = rf"[A-Za-z0-9._:-]{{1,{REQUEST_ID_LENGTH_MAX}}}"
_REQUEST_ID: Final = re.compile(REQUEST_ID_FORM)

# Fields that decide who is served what. If one is sent twice, two readers could disagree about its value.
_SINGLE_FIELDS = ("Authorization", "Idempotency-Key", "Content-Type", "If-Match", "If-None-Match")


def sane_request_id(given: str | None) -> str | None:
    """Return the request id that a caller gave, if it is safe to repeat; otherwise None."""
    return given if given and _REQUEST_ID.fullmatch(given) else None


class Head:
    """
    The header fields of a request, interpreted.

    Args:
        message: The head as aiohttp parsed it.

        before: The checked head of the previous request on the connection: usually it has the same token and names.

    Attributes:
        amounts_as_strings: Whether the caller wants amounts as strings.

        origin: The origin of the page that sent the request; empty if there is none.

        request_id: The caller's, if it gave one that is safe to repeat.

        idempotency_key: As given, valid or not; None if absent.

        traceparent: As given; empty if absent.

        token: The Bearer token; empty if absent.

        token_name: The hash of the token, which identifies it.

        checked: Whether `check` has passed.

        keeps_alive: Whether the connection stays open after the request, as HTTP/1.1.
    """

    __slots__ = (
        "amounts_as_strings",
        "authorization",
        "checked",
        "good_names",
        "headers",
        "idempotency_key",
        "if_none_match",
        "keeps_alive",
        "names",
        "no_cache",
        "origin",
        "raw_headers",
        "request_id",
        "token",
        "token_name",
        "traceparent",
        "version",
    )

    token: str
    token_name: bytes
    # The names of the fields, once they have been checked.
    names: list[bytes]

    def __init__(self, message: RawRequestMessage, before: "Head | None" = None) -> None:
        headers = message.headers
        self.checked = False
        self.headers = headers
        self.raw_headers = message.raw_headers
        self.version = message.version
        self.keeps_alive = (
            message.version == HttpVersion11
            and not message.should_close
            and not message.upgrade
            and "Upgrade" not in headers
        )
        self.request_id = sane_request_id(headers.get("X-Request-Id"))
        self.idempotency_key = headers.get("Idempotency-Key")
        self.traceparent = headers.get("traceparent", "")
        self.authorization = headers.get("Authorization", "")
        if before is not None and before.authorization == self.authorization:
            self.token, self.token_name = before.token, before.token_name
            self.good_names = before.names
        else:
            self.good_names = []
            scheme, _, token = self.authorization.partition(" ")
            self.token = token.strip() if scheme.lower() == "bearer" else ""
            self.token_name = token_name(self.token) if self.token else b""
        self.no_cache = "no-cache" in headers.get("Cache-Control", "")
        self.if_none_match = headers.get("If-None-Match")
        self.amounts_as_strings = "Accept" in headers and asks_for_strings(headers.getall("Accept"))
        self.origin = headers.get("Origin", "")

    @classmethod
    def of(cls, message: RawRequestMessage, before: "Head | None") -> "Head":
        """Return the head of a message: *before* itself if the fields are the same, so that it is not read again."""
        if before is None or before.raw_headers != message.raw_headers or before.version != message.version:
            return cls(message, before)
        return before

    def check(self) -> None:
        """
        Refuse a request of HTTP/0.9, with headers that are too large, or with a repeated field that must be single.

        Raises:
            Problem: The request is refused.
        """
        if self.checked:
            return
        if self.version < (1, 0):
            raise Problem("malformed_request")
        names: list[bytes] = []
        size = 0
        for field, value in self.raw_headers:
            names.append(field)
            size += len(field) + len(value)
        if size > HEADERS_MAX_BYTES:
            raise invalid("headers", f"The header fields exceed {HEADERS_MAX_BYTES} bytes.")
        headers = self.headers
        # Usually the names are those of the previous request. If not, look for repeated single fields only when some
        # name is repeated.
        if names != self.good_names and len(headers) > len(set(map(str.lower, headers))):
            for name in _SINGLE_FIELDS:
                if name in headers and len(headers.getall(name)) > 1:
                    raise invalid(name, f"The header field {name} is sent more than once.")
        self.names = names
        self.checked = True
