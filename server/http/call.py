"""One request on its way through the service: its headers, path and query, checked once."""

import itertools
import re
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

from aiohttp import StreamReader
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDictProxy

from server.gate.keys import ApiKey
from server.http.admission import Admission
from server.http.head import Head
from server.http.problems import Problem, invalid
from server.ledger.limits import IDEMPOTENCY_KEY_LENGTH_MAX, PAGE_DEFAULT, PAGE_MAX
from server.telemetry.tallies import Timing

_KEY = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}")
# A string of structured fields (RFC 9651, section 3.3.3): only quotes and backslashes are escaped.
_QUOTED_KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
# The standard library takes such an escape for plain text.
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

# A target that names the server too: RFC 9112, section 3.2.2.
_ABSOLUTE = re.compile(r"https?://[^/?]*", re.IGNORECASE)

# Request ids of this process: a random part, then a count.
_process = secrets.token_hex(6)
_counter = itertools.count(1)


def new_request_id() -> str:
    """Return the id of a request whose caller gave it none."""
    return f"{_process}-{next(_counter):x}"


def origin_form(target: str) -> str:
    """Return a request's target without scheme and authority."""
    if target[:1] == "/":
        return target
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest[:1] == "/" else "/" + rest


class Call:
    """
    A request, its id, and once they are known the key it came with and the ids in its path.

    Args:
        start: Method, path and query as received.

        content: The body, which may still be arriving.

        protocol: The connection.

        admission: Where its place is.
    """

    __slots__ = (
        "admission",
        "arrived",
        "body",
        "content",
        "gated",
        "head",
        "ids",
        "key",
        "limit_fields",
        "method",
        "path",
        "placed",
        "protocol",
        "query_string",
        "request_id",
        "route",
        "timing",
        "write",
    )

    key: ApiKey
    ids: tuple[str, ...]

    def __init__(
        self,
        start: tuple[str, str, str],
        head: Head,
        content: StreamReader,
        protocol: RequestHandler,
        admission: Admission,
    ) -> None:
        self.method, self.path, self.query_string = start
        self.head = head
        self.content = content
        self.protocol = protocol
        self.admission = admission
        self.ids = ()
        # Whether it holds a place of the admission.
        self.placed = False
        # The path of its route, with wildcards.
        self.route = "other"
        # Instants on the clock of `time.monotonic`, in seconds: when it had been read, and when the gate had let it in.
        self.arrived = 0.0
        self.gated = 0.0
        self.timing: Timing | None = None
        # All of the content, once it has been taken from there.
        self.body: bytes | None = None
        # RateLimit and RateLimit-Policy, once the limit has been asked.
        self.limit_fields = b""
        self.write = self.method not in ("GET", "HEAD", "OPTIONS")
        self.request_id = head.request_id or new_request_id()

    @property
    def authenticated(self) -> bool:
        """Whether it is known whose request it is."""
        return hasattr(self, "key")

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The header fields."""
        return self.head.headers

    def give_place_away(self) -> None:
        """Give its place to another request: from now on it waits for what no place is needed for."""
        if self.placed:
            self.placed = False
            self.admission.leave(write=self.write)

    def own_fields(self) -> bytes:
        """Return the header lines that every answer to this request has."""
        return b"%bX-Request-Id: %b\r\n" % (self.limit_fields, self.request_id.encode())

    @property
    def remote(self) -> str:
        """The network address at the other end of the connection; empty where there is none."""
        peer = self.protocol.peername
        return str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def content_length(self) -> int | None:
        """Bytes of the body as announced; None where its end is told otherwise."""
        length = self.headers.get("Content-Length")
        return None if length is None else int(length)

    @property
    def ledger_id(self) -> int:
        """The ledger of the key, and so of everything this request can see."""
        return self.key.ledger_id

    def idempotency_key(self) -> str:
        """
        Return the value of Idempotency-Key: raw, or unquoted where it is a structured-field string.

        Raises:
            Problem: It is missing or malformed.
        """
        given = self.headers.get("Idempotency-Key")
        if given is None:
            raise Problem("idempotency_key_missing")
        return parse_key(given)

    def peek_idempotency_key(self) -> str | None:
        """Return the idempotency key if there is a good one: its faults are for later, in the order of checks."""
        given = self.headers.get("Idempotency-Key")
        if given is None:
            return None
        try:
            return parse_key(given)
        except Problem:
            return None

    def query(self, *names: str) -> Mapping[str, str]:
        """
        Return the query's parameters.

        Raises:
            Problem: One is not among *names*, is repeated, is empty, or is not well-escaped UTF-8 without NUL.
        """
        if not self.query_string:
            return {}
        parameters: dict[str, str] = {}
        try:
            if _BROKEN_ESCAPE.search(self.query_string):
                raise ValueError
            pairs = parse_qsl(
                self.query_string, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32
            )
        except ValueError:
            raise Problem("invalid_request", _malformed(self.query_string)) from None
        for name, value in pairs:
            if name not in names:
                hint = " Leave out the _ that some clients add against caches."
                known = f"Parameters of this path: {', '.join(names) or 'none'}."
                raise Problem("invalid_request", known + (hint if name == "_" else ""))
            if name in parameters:
                raise invalid(name, "The parameter is sent more than once.")
            if not value:
                raise invalid(name, "The parameter is empty: give it a value, or leave it out.")
            if "\x00" in value:
                raise invalid(name, "The parameter holds a NUL character.")
            parameters[name] = value
        return parameters


def parse_key(text: str) -> str:
    """
    Return the idempotency key that *text* names, raw or quoted.

    Raises:
        Problem: It is neither.
    """
    key = text
    if text.startswith('"'):
        match = _QUOTED_KEY.fullmatch(text)
        if match is None:
            raise Problem("idempotency_key_invalid")
        key = re.sub(r"\\(.)", r"\1", match[1])
    if not _KEY.fullmatch(key):
        raise Problem("idempotency_key_invalid")
    return key


def _malformed(query: str) -> str:
    """Return what is wrong with a query that is not well formed."""
    if _BROKEN_ESCAPE.search(query):
        return "The query is not well formed: write %25 for a percent sign that begins no escape."
    pairs = query.split("&")
    if "" in pairs:
        return "The query is not well formed: it has an ampersand with no parameter behind or before it."
    if not all("=" in pair for pair in pairs):
        return "The query is not well formed: a parameter is a name, an equals sign and a value."
    return "The query is not well formed: it is not UTF-8, or has too many parameters."


def whole_number(name: str, text: str) -> int:
    """
    Return the whole number, 0 to 2^63-1, that a parameter holds.

    Raises:
        Problem: It holds something else.
    """
    if not _WHOLE_NUMBER.fullmatch(text) or (number := int(text)) >= 2**63:
        raise invalid(name, "A whole number is expected.")
    return number


def page_limit(parameters: Mapping[str, str]) -> int:
    """
    Return the size of the page asked for.

    Raises:
        Problem: It is not within bounds.
    """
    limit = whole_number("limit", parameters["limit"]) if "limit" in parameters else PAGE_DEFAULT
    if not 1 <= limit <= PAGE_MAX:
        raise invalid("limit", f"A page has 1 to {PAGE_MAX} rows.")
    return limit


def path_text(segment: str) -> str:
    """Return a path segment with its percent-escapes undone; text that is not UTF-8 names nothing and becomes empty."""
    if "%" not in segment:
        return segment
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return ""
