"""One request on its way through the service: its headers, path and query, checked once."""

import itertools
import re
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

from aiohttp.web import BaseRequest

from server.gate.keys import ApiKey
from server.http.limits import HEADERS_MAX_BYTES, REQUEST_ID_LENGTH_MAX
from server.http.problems import Problem, invalid
from server.ledger.limits import IDEMPOTENCY_KEY_LENGTH_MAX, PAGE_DEFAULT, PAGE_MAX

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{REQUEST_ID_LENGTH_MAX}}}")
_KEY = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}")
# A string of structured fields (RFC 9651, section 3.3.3): only quotes and backslashes are escaped.
_QUOTED_KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
# The standard library takes such an escape for plain text.
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

# Fields that decide who is served what: two of them mean two readers could disagree.
_SINGLE_FIELDS = ("Authorization", "Idempotency-Key", "Content-Type", "If-Match", "If-None-Match")

# Request ids of this process: a random part, then a count.
_process = secrets.token_hex(6)
_counter = itertools.count(1)


class Call:
    """
    A request, its id, and once they are known the key it came with and the ids in its path.

    Raises:
        Problem: A header that must be single is repeated, or the headers are too large.
    """

    __slots__ = ("ids", "key", "limit_fields", "path", "query_string", "request", "request_id", "write")

    key: ApiKey
    ids: tuple[str, ...]

    def __init__(self, request: BaseRequest) -> None:
        self.request = request
        path, _, query = request.raw_path.partition("?")
        self.path = path
        self.query_string = query
        self.ids = ()
        # RateLimit and RateLimit-Policy, once the limit has been asked.
        self.limit_fields = b""
        self.write = request.method not in ("GET", "HEAD", "OPTIONS")
        given = request.headers.get("X-Request-Id", "")
        self.request_id = given if given and _REQUEST_ID.fullmatch(given) else f"{_process}-{next(_counter):x}"

    def check_headers(self) -> None:
        """Refuse requests of an ancient version, and those whose headers are too large or say one thing twice."""
        request = self.request
        if request.version < (1, 0):
            raise Problem("malformed_request")
        size = 0
        for field, value in request.raw_headers:
            size += len(field) + len(value)
        if size > HEADERS_MAX_BYTES:
            raise invalid("headers", f"The header fields exceed {HEADERS_MAX_BYTES} bytes.")
        headers = request.headers
        for name in _SINGLE_FIELDS:
            if name in headers and len(headers.getall(name)) > 1:
                raise invalid(name, f"The header field {name} is sent more than once.")

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
        given = self.request.headers.get("Idempotency-Key")
        if given is None:
            raise Problem("idempotency_key_missing")
        return parse_key(given)

    def peek_idempotency_key(self) -> str | None:
        """Return the idempotency key if there is a good one: its faults are for later, in the order of checks."""
        given = self.request.headers.get("Idempotency-Key")
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
            Problem: One is not among *names*, is repeated, or is not well-escaped UTF-8 without NUL.
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
            raise Problem("invalid_request", "The query is not well formed.") from None
        for name, value in pairs:
            if name not in names:
                raise Problem("invalid_request", f"Parameters of this path: {', '.join(names) or 'none'}.")
            if name in parameters:
                raise invalid(name, "The parameter is sent more than once.")
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
