"""Request heads that repeat on a connection: recognized by comparing bytes with a head that the parser accepted."""

import re
import time
from typing import Final

from aiohttp.web_protocol import RequestHandler

from server.gate.tokens import TOKEN_FORM, token_name
from server.http.admission import Admission
from server.http.call import Call
from server.http.limits import BODY_MAX_BYTES
from server.http.route import Route
from server.http.wire.head import REQUEST_ID_FORM, Head
from server.ledger.limits import ACCOUNT_ID_PATTERN, IDEMPOTENCY_KEY_LENGTH_MAX

# Heads that a connection remembers: a balancer's connection carries reads and transfers of several kinds of clients.
HEADS_MAX: Final = 4
# The most bytes of a head that is remembered: most heads have a few hundred.
HEAD_MAX_BYTES: Final = 2 * 1024
# After this many requests parsed in a row, a connection remembers only every so-many-th head: its heads do not repeat,
# and remembering one costs as much as a repetition saves.
MISSES_MAX: Final = 16

_READ: Final = b"GET /v1/accounts/"
_WRITE: Final = b"POST /v1/transfers HTTP/1.1\r\n"
_ACCOUNT: Final = b"account"
_LENGTH: Final = b"content-length"
_KEY: Final = b"idempotency-key"
_REQUEST_ID: Final = b"x-request-id"
_TRACEPARENT: Final = b"traceparent"
_AUTHORIZATION: Final = b"authorization"
_BODY: Final = b""
# The parts that may differ from one request to the next, and their accepted forms. No form matches the byte that ends
# the part.
_ACCOUNT_ID: Final = re.compile(ACCOUNT_ID_PATTERN.strip("^$").encode())
_READ_FIELDS: Final = {
    _AUTHORIZATION: TOKEN_FORM,
    _REQUEST_ID: re.compile(REQUEST_ID_FORM.encode()),
    _TRACEPARENT: re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
}
_WRITE_FIELDS: Final = {
    **_READ_FIELDS,
    # A quoted key is left to the parser, because quotes are only another way to write a key.
    _KEY: re.compile(rb"[!#-~][!-~]{0,%d}" % (IDEMPOTENCY_KEY_LENGTH_MAX - 1)),
    _LENGTH: re.compile(rb"0|[1-9][0-9]{0,%d}" % (len(str(BODY_MAX_BYTES)) - 1)),
}
# With one of these fields, Content-Length does not describe the body: such heads are left to the parser.
_CODINGS: Final = {b"transfer-encoding", b"content-encoding"}


class RepeatedHead:
    """
    A head that the parser has accepted, as its fixed bytes and the variable parts between them.

    Args:
        parts: For each variable part: the fixed bytes before it, its name, and its accepted form.

        end: The fixed bytes behind the last variable part.

        head: The header fields.

        route: The route of the request.

        rest: The bytes behind the account id in the read that this head was made of; empty for a write.
    """

    __slots__ = ("end", "head", "parts", "rest", "route", "token", "write")

    def __init__(
        self,
        parts: tuple[tuple[bytes, bytes, "re.Pattern[bytes]"], ...],
        end: bytes,
        head: Head,
        route: Route,
        rest: bytes,
    ) -> None:
        self.parts = parts
        self.end = end
        self.head = head
        self.route = route
        self.rest = rest
        self.token = head.token.encode()
        self.write = route.body is not None

    @classmethod
    def of(cls, data: bytes, call: Call) -> "RepeatedHead | None":
        """
        Make a RepeatedHead of a request; return None if requests like it always have to be parsed.

        Args:
            data: The request as received, and nothing else.

            call: The call that was parsed from it.
        """
        head, route, write = call.head, call.route, data.startswith(_WRITE)
        if route is None or not (head.checked and head.keeps_alive) or data.find(b"\r\n\r\n", 0, HEAD_MAX_BYTES) < 0:
            return None
        parts, seen = [], set()
        if write:
            fields, before = _WRITE_FIELDS, _WRITE
        else:
            fields, before = _READ_FIELDS, b" HTTP/1.1\r\n"
            parts.append((_READ, _ACCOUNT, _ACCOUNT_ID))
        for field, value in head.raw_headers:
            name = field.lower()
            if name in _CODINGS or (name == _LENGTH and not write):
                return None
            if name not in fields:
                before += b"%b: %b\r\n" % (field, value)
            elif name in seen:
                return None
            else:
                seen.add(name)
                stays = value[: -len(head.token)] if name == _AUTHORIZATION else b""
                parts.append((before + field + b": " + stays, name, fields[name]))
                before = b"\r\n"
        if write and not seen >= {_KEY, _LENGTH}:
            return None
        rest = b"" if write else data[data.find(b" ", len(_READ)) :]
        found = cls(tuple(parts), before + b"\r\n", head, route, rest)
        # A head that was not written as it is put together here would never be recognized.
        return found if found._differing(data) is not None else None

    def call(self, data: bytes, connection: RequestHandler, admission: Admission) -> Call | None:
        """Return the call for *data* if it is exactly one whole request with this head; otherwise None."""
        found = self._same_but_account(data) or self._differing(data)
        if found is None:
            return None
        if self.write:
            start, last, body = ("POST", "/v1/transfers", ""), "transfers", found.pop(_BODY)
        else:
            last, body = found.pop(_ACCOUNT).decode(), b""
            start = ("GET", "/v1/accounts/" + last, "")
        call = Call(start, self.head, body, connection, admission=admission, arrived=time.monotonic())
        call.route = self.route
        call.names = (last,)
        if found:
            _note(found, call)
        return call

    def _same_but_account(self, data: bytes) -> dict[bytes, bytes] | None:
        """Return the account in *data* if only the account differs from the request that this head was made of."""
        rest = self.rest
        if not rest or not data.endswith(rest) or not data.startswith(_READ):
            return None
        account = data[len(_READ) : -len(rest)]
        return {_ACCOUNT: account} if _ACCOUNT_ID.fullmatch(account) else None

    def _differing(self, data: bytes) -> dict[bytes, bytes] | None:
        """Return the variable parts of *data* and its body if it is exactly one whole request; otherwise None."""
        at = 0
        found: dict[bytes, bytes] = {}
        for before, name, form in self.parts:
            if not data.startswith(before, at):
                return None
            at += len(before)
            if form is TOKEN_FORM and data.startswith(self.token, at):
                # The caller is the same, as it usually is.
                at += len(self.token)
                continue
            match = form.match(data, at)
            if match is None:
                return None
            found[name] = match[0]
            at = match.end()
        if not data.startswith(self.end, at):
            return None
        body = data[at + len(self.end) :]
        if len(body) != int(found.get(_LENGTH, 0)) or len(body) > BODY_MAX_BYTES:
            return None
        if self.write:
            found[_BODY] = body
        return found


def _note(found: dict[bytes, bytes], call: Call) -> None:
    """Set in a call the fields that differ from those of the remembered head."""
    if _AUTHORIZATION in found:
        call.token = found[_AUTHORIZATION].decode()
        call.token_name = token_name(call.token)
    if _KEY in found:
        call.idempotency_key = found[_KEY].decode()
    if _REQUEST_ID in found:
        call.request_id = found[_REQUEST_ID].decode()
    if _TRACEPARENT in found:
        call.traceparent = found[_TRACEPARENT].decode()


class RepeatedHeads:
    """The heads that a connection remembers, the most recently used first."""

    __slots__ = ("_heads", "_misses")

    def __init__(self) -> None:
        self._heads: list[RepeatedHead] = []
        # Requests parsed since a head last repeated.
        self._misses = 0

    def call(self, data: bytes, connection: RequestHandler, admission: Admission) -> Call | None:
        """Return the call for *data* if it is exactly one whole request with a remembered head; otherwise None."""
        for place, head in enumerate(self._heads):
            call = head.call(data, connection, admission)
            if call is not None:
                self._misses = 0
                if place:
                    self._heads.insert(0, self._heads.pop(place))
                return call
        return None

    def remember(self, data: bytes, call: Call) -> None:
        """
        Remember the head of a request that had to be parsed.

        Args:
            data: The request as received, and nothing else.

            call: The call that was parsed from it.
        """
        if not data.startswith((_READ, _WRITE)):
            return
        self._misses += 1
        if self._misses > MISSES_MAX and self._misses % MISSES_MAX:
            return
        new = RepeatedHead.of(data, call)
        if new is not None:
            others = (head for head in self._heads if (head.parts, head.end) != (new.parts, new.end))
            self._heads = [new, *others][:HEADS_MAX]
