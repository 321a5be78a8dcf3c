"""Requests that are not HTTP, and HTTP requests with an error, each with a mark in the wrong part."""

from collections.abc import Iterator
from typing import NamedTuple

from server.http.cursors import write_cursor
from tests.input.wire import request

# Stands for any text that must not be repeated in an answer.
MARK = "mark-that-is-told-nobody"
JSON = "Content-Type: application/json"
TRANSFER = b'{"source":"world","destination":"alice","amount":1,"currency":"EUR"}'
KEY = "never-bound"


class Refused(NamedTuple):
    """An HTTP request with an error, and the status and code of its refusal."""

    data: bytes
    status: int
    code: str


def malformed(token: str, mark: str) -> dict[str, bytes]:
    """Return bytes that are not HTTP as this server accepts it."""
    secret = mark.encode()

    def get(*lines: str | bytes) -> bytes:
        return request("GET", "/livez", *lines)

    def post(*lines: str | bytes, rest: bytes = b"") -> bytes:
        return request("POST", "/v1/transfers", JSON, f"Idempotency-Key: {KEY}", *lines, token=token) + rest

    length = f"Content-Length: {len(TRANSFER)}"
    chunked = "Transfer-Encoding: chunked"
    return {
        "no request line": b"\r\n" * 3 + secret + b"\r\n\r\n",
        "one word": secret + b"\r\nHost: ledger\r\n\r\n",
        "no path": b"GET HTTP/1.1\r\nHost: ledger\r\nX: " + secret + b"\r\n\r\n",
        "spaces in the path": b"GET /" + secret + b" b HTTP/1.1\r\nHost: ledger\r\n\r\n",
        "bytes in the path": b"GET /\xff" + secret + b" HTTP/1.1\r\nHost: ledger\r\n\r\n",
        "bytes in the query": b"GET /v1/transfers?account=\xff" + secret + b" HTTP/1.1\r\nHost: ledger\r\n\r\n",
        "a method in small letters": b"get /livez HTTP/1.1\r\nHost: ledger\r\nX: " + secret + b"\r\n\r\n",
        "a method nobody knows": secret.upper() + b" /livez HTTP/1.1\r\nHost: ledger\r\n\r\n",
        "HTTP/0.9": b"GET /" + secret + b"\r\n\r\n",
        "HTTP/1.7": b"GET /" + secret + b" HTTP/1.7\r\nHost: ledger\r\n\r\n",
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + secret,
        "another protocol": b"GET / " + secret + b"/1.1\r\nHost: ledger\r\n\r\n",
        "TLS": bytes.fromhex("16030100a5010000a10303") + secret + bytes(80),
        "bare line feeds": b"GET /livez HTTP/1.1\nHost: ledger\nX: " + secret + b"\n\n",
        "a bare carriage return in a field": get(b"X: a\rX-Y: " + secret),
        "NUL in a field": get(b"X: \x00" + secret),
        "NUL in a field name": get(b"X\x00Y: " + secret),
        "a field without a colon": get(secret),
        "a field without a name": get(b": " + secret),
        "a space before the colon": get(b"X : " + secret),
        "a folded field": get(b"X: a", b" " + secret),
        "a line over 8 KiB": request("GET", "/" + mark * 400),
        "a field over 8 KiB": get("X: " + mark * 400),
        "more than 64 fields": get(*[f"X-{n}: {mark}" for n in range(65)]),
        "no Host": b"GET /livez HTTP/1.1\r\nX: " + secret + b"\r\n\r\n",
        "two Hosts": get("Host: " + mark),
        "two Content-Types": post(JSON, length, f"X: {mark}", rest=TRANSFER),
        "both lengths": post(length, chunked, f"X: {mark}", rest=b"0\r\n\r\n"),
        "both lengths, the other way round": post(chunked, length, f"X: {mark}", rest=b"0\r\n\r\n"),
        "two Content-Lengths": post(length, length, f"X: {mark}", rest=TRANSFER),
        "two different Content-Lengths": post(length, "Content-Length: 3", rest=TRANSFER + secret),
        "a signed Content-Length": post("Content-Length: +3", rest=b"abc" + secret),
        "a negative Content-Length": post("Content-Length: -3", rest=secret),
        "a Content-Length in words": post(f"Content-Length: {mark}"),
        "a Content-Length past 64 bits": post("Content-Length: " + "9" * 30, rest=secret),
        "a list of Content-Lengths": post("Content-Length: 3, 3", rest=b"abc" + secret),
        "an unknown transfer coding": post(f"Transfer-Encoding: {mark}", rest=b"0\r\n\r\n"),
        "chunked, but not last": post("Transfer-Encoding: chunked, identity", f"X: {mark}", rest=b"0\r\n\r\n"),
        "a chunk size in words": post(chunked, rest=secret + b"\r\n"),
        "a chunk longer than its size": post(chunked, rest=b"3\r\nabcd" + secret + b"\r\n0\r\n\r\n"),
        "a negative chunk": post(chunked, rest=b"-1\r\n" + secret),
        "a chunk past 64 bits": post(chunked, rest=b"f" * 20 + b"\r\n" + secret),
        "a line feed in a chunk extension": post(chunked, rest=b"3;" + secret + b"\nb\r\nabc\r\n0\r\n\r\n"),
    }


def _bodies(token: str, mark: str) -> Iterator[tuple[str, Refused]]:
    def post(*lines: str | bytes, body: bytes = TRANSFER, target: str = "/v1/transfers") -> bytes:
        return request("POST", target, *lines, f"X: {mark}", body=body, token=token)

    key = f"Idempotency-Key: {KEY}"
    gzip = b"\x1f\x8b\x08\x00" + mark.encode()
    yield "no Content-Type", Refused(post(key), 415, "unsupported_media_type")
    for media in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; charset=utf-8",
        "application/json, application/json",
        "",
        mark,
    ):
        refused = Refused(post(key, f"Content-Type: {media}"), 415, "unsupported_media_type")
        yield f"Content-Type {media.replace(mark, 'garbage')!r}", refused
    for coding in ("gzip", "identity, gzip", "br, gzip", mark):
        refused = Refused(post(key, JSON, f"Content-Encoding: {coding}", body=gzip), 415, "unsupported_media_type")
        yield f"Content-Encoding {coding.replace(mark, 'garbage')}", refused
    yield "a body that is no JSON", Refused(post(key, JSON, body=mark.encode()), 400, "invalid_request")
    yield "gzip unannounced", Refused(post(key, JSON, body=gzip), 400, "invalid_request")
    yield "no key", Refused(post(JSON), 400, "idempotency_key_missing")
    for bad in ("", '""', '"', f'"{mark}', f"{mark} b", f'"{mark}\\x"', "k" * 256, '"' + "k" * 256 + '"', "k\t" + mark):
        yield (
            f"the key {bad.replace(mark, '-')[:8]!r} of {len(bad)}",
            Refused(post(JSON, f"Idempotency-Key: {bad}"), 400, "idempotency_key_invalid"),
        )
    yield "a key of bytes", Refused(post(JSON, b"Idempotency-Key: \xff\xfe"), 400, "idempotency_key_invalid")
    yield "two keys", Refused(post(JSON, key, f"Idempotency-Key: {mark}"), 400, "invalid_request")
    yield "one key twice", Refused(post(JSON, key, key), 400, "invalid_request")
    for query in ("?x=1", f"?{mark}", "?%zz", "?source=world"):
        refused = Refused(post(JSON, key, target="/v1/transfers" + query), 400, "invalid_request")
        yield f"POST with {query.replace(mark, 'garbage')}", refused


def _credentials(token: str, mark: str) -> Iterator[tuple[str, Refused]]:
    def get(*lines: str | bytes) -> bytes:
        return request("GET", "/v1/accounts", *lines)

    flipped = token[:-1] + ("0" if token[-1:] != "0" else "1")
    for name, value in (
        ("none", ""),
        ("another scheme", f"Basic {mark}"),
        ("no token", "Bearer"),
        ("garbage", f"Bearer {mark}"),
        ("a digit changed", f"Bearer {flipped}"),
        ("two tokens", f"Bearer {token} {mark}"),
        ("quoted", f'Bearer "{token}"'),
        ("in capitals", f"Bearer {token.upper()}"),
        ("very long", f"Bearer {mark * 100}"),
    ):
        yield f"credentials: {name}", Refused(get(f"Authorization: {value}"), 401, "unauthorized")
    yield "credentials: bytes", Refused(get(b"Authorization: Bearer \xff\xfe"), 401, "unauthorized")
    yield "no Authorization", Refused(get(), 401, "unauthorized")
    both = get(f"Authorization: Bearer {token}", f"Authorization: Bearer {mark}")
    yield "two Authorizations", Refused(both, 400, "invalid_request")


def _targets(token: str, mark: str) -> Iterator[tuple[str, Refused]]:
    def get(target: str) -> bytes:
        return request("GET", target, token=token)

    for path in (
        *("//livez", "/livez/", "/v1//accounts", "/v1/accounts/", "/v1/accounts/alice/", "/.", "/v1"),
        *("/v1/accounts/../accounts", "/v1/accounts#x", "/V1/accounts", "/v1/accounts;a=b", "ftp://ledger/livez"),
        *(f"/{mark}", f"/v1/{mark}", f"/v1/accounts/alice/{mark}", f"/problems/{mark}", "/" + "a" * 7000),
        *("/v1/idempotency-keys/", "/v1/idempotency-keys", "/%6civez", "/problems/%00", "/problems/%ff"),
    ):
        yield f"path {path[:30].replace(mark, 'garbage')}", Refused(get(path), 404, "not_found")
    for name in ("%00", "a%00", "a%2Fb", "%ff", "%c0%af", "%zz", "%", "a%0d%0ab", "%D9%A1", "a" * 65, "b" * 5000, ".."):
        yield f"account {name[:12]}", Refused(get(f"/v1/accounts/{name}"), 404, "account_not_found")
        entries = Refused(get(f"/v1/accounts/{name}/entries"), 404, "account_not_found")
        yield f"entries of {name[:12]}", entries
        yield f"transfer {name[:12]}", Refused(get(f"/v1/transfers/{name}"), 404, "transfer_not_found")
    for name in ("%00", "a%20b", "%ff", "a/%00", "k" * 256, "%D9%A1", "%22a"):
        bound = Refused(get(f"/v1/idempotency-keys/{name}"), 404, "idempotency_key_not_found")
        yield f"key {name[:12]}", bound
    uuid = "00000000-0000-7000-8000-000000000000"
    for name in (f"%7B{uuid}%7D", f"urn:uuid:{uuid}", uuid.replace("-", ""), uuid + "%0A", "1_" + uuid[2:]):
        yield f"transfer {name}", Refused(get(f"/v1/transfers/{name}"), 404, "transfer_not_found")
    for method in ("TRACE", "PURGE", "OPTIONS", "DELETE", "PUT", "POST", "PATCH", "MKCOL"):
        data = request(method, "/livez", f"X: {mark}", token=token)
        yield f"method {method}", Refused(data, 405, "method_not_allowed")
    yield "CONNECT", Refused(request("CONNECT", f"{mark}:443", token=token), 404, "not_found")
    large = [f"X-{n}: {mark * 20}" for n in range(40)]
    yield "fields over 16 KiB", Refused(request("GET", "/livez", *large), 400, "invalid_request")


_LISTS = ("/v1/accounts", "/v1/transfers", "/v1/accounts/alice/entries")
_TIMES = (
    *("", "now", "1700000000", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "2026-13-01T12:00:00Z"),
    *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "10000-01-01T00:00:00Z"),
    *("2026-01-31T25:00:00Z", "2026-01-31T12:00:00%2B99:99", "%D9%A2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z%00"),
)
_CURSORS = {
    "empty": "",
    "no base64": "!!!!",
    "random bytes": "q83vEjRWeJA",
    "one letter": "A",
    "letters of other scripts": "%D9%A1",
    "very long": "A" * 257,
    "a number": write_cursor(1),
    "nothing": write_cursor(None),
    "NUL": write_cursor("a\x00"),
    "text of other scripts": write_cursor("\u0661"),
    "an instant without a zone": write_cursor(("2026-01-01T00:00:00", 1)),
    "an instant before all": write_cursor(("0001-01-01T00:00:00+14:00", 1)),
    "an instant after all": write_cursor(("9999-12-31T23:59:59-14:00", 1)),
    "an instant after all, in transfers": write_cursor(("9999-12-31T23:59:59-14:00", "0" * 32)),
    "a version past 64 bits": write_cursor(("2026-01-01T00:00:00Z", 2**63)),
    "a negative version": write_cursor(("2026-01-01T00:00:00Z", -1)),
    "three parts": write_cursor(("2026-01-01T00:00:00Z", 1, 1)),
    "no UUID": write_cursor(("2026-01-01T00:00:00Z", "a")),
}


def _queries(token: str, mark: str) -> Iterator[tuple[str, Refused]]:
    def refused(target: str) -> Refused:
        return Refused(request("GET", target, f"X: {mark}", token=token), 400, "invalid_request")

    for path in (*_LISTS, "/v1/accounts/alice", "/v1/accounts/alice/balance", "/v1/idempotency-keys/a"):
        for query in (f"{mark}=1", "LIMIT=1", "%ff=1", "%00=1", "&", "a&b", "=", "limit", "a=1;b=2", "x=1&" * 40):
            yield f"{path}?{query[:9].replace(mark, 'garbage')}", refused(f"{path}?{query}")
    for path in _LISTS:
        for limit in (
            "0",
            "101",
            "-1",
            "abc",
            "",
            "1.0",
            "1e1",
            "%2B1",
            "01",
            "%D9%A1",
            "9" * 30,
            "%201",
            "0x1",
            "1_0",
        ):
            yield f"{path}?limit={limit[:12]}", refused(f"{path}?limit={limit}")
        yield f"{path} with two limits", refused(f"{path}?limit=1&limit=1")
        for name, cursor in _CURSORS.items():
            yield f"{path} with a cursor of {name}", refused(f"{path}?cursor={cursor}")
    for time in _TIMES:
        for target in (
            "/v1/accounts/alice/entries?from=",
            "/v1/accounts/alice/entries?to=",
            "/v1/accounts/alice/balance?at=",
        ):
            yield f"{target}{time}", refused(target + time)
    for version in ("", "-1", "a", "1.0", "9223372036854775808", "%D9%A1"):
        yield f"min_version={version}", refused(f"/v1/accounts/alice?min_version={version}")
    for value in ("%ff", "a%00", "%zz", "%", "a%2", "%c0%af"):
        for target in ("/v1/accounts?prefix=", "/v1/transfers?reference=", "/v1/transfers?account="):
            yield f"{target}{value}", refused(target + value)
    yield "no instant", refused("/v1/accounts/alice/balance")
    yield "a long reference", refused("/v1/transfers?reference=" + "r" * 256)


def refused(token: str, mark: str) -> dict[str, Refused]:
    """Return HTTP requests that are refused."""
    found: dict[str, Refused] = {}
    for table in (_bodies, _credentials, _targets, _queries):
        for name, entry in table(token, mark):
            assert name not in found, name
            found[name] = entry
    return found
