"""Random input: whatever bytes come, no answer is 5xx, no connection hangs, and no error is logged."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.input import broken_http, places
from tests.input.broken_http import JSON, MARK, TRANSFER
from tests.input.conftest import Book
from tests.input.places import BODIES, OBJECTS, Place
from tests.input.wire import HANG_SECONDS, Wire, connect, parse_head, request
from tests.support.client import new_key

# Seconds to wait for an answer before the sender finishes.
ANSWER_SECONDS = 0.02

# The seed is fixed, so that a failing run can be repeated. There is no deadline, because an example is a request over a
# socket and the machine may be busy; `too_slow` measures the same time.
FUZZ = settings(
    derandomize=True, max_examples=200, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Fail if anything is logged as an error during the test."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[assignment]  # the shortest way to keep records
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in records] == []


async def send(book: Book, place: Place, body: bytes) -> int:
    """Send a body to a place and return the status; an error must be a problem, and 400, 413 and 415 bind no key."""
    key = new_key()
    answer = await place.send(book.client, body, key)
    assert answer.status < 500, (place.name, body, answer)
    if answer.status >= 400:
        assert answer.headers["Content-Type"] == "application/problem+json"
    if answer.status in (400, 413, 415) and place.path == "/v1/transfers":
        assert (await book.client.get(f"/v1/idempotency-keys/{key}")).status == 404
    return answer.status


async def statuses(book: Book, data: bytes) -> list[int]:
    """Send *data*, wait a moment, end the sending side, and return all statuses once the connection has ended."""
    received = bytearray()

    async def receive(wire: Wire) -> None:
        try:
            while part := await wire.reader.read(65_536):
                received.extend(part)
        except ConnectionError:
            pass

    async with connect(book.client.url) as wire:
        await wire.send(data)
        receiving = asyncio.ensure_future(receive(wire))
        await asyncio.wait([receiving], timeout=ANSWER_SECONDS)
        wire.finish()
        async with asyncio.timeout(HANG_SECONDS):
            await receiving
    for head in re.findall(rb"HTTP/1\.1 [^\x00]*?\r\n\r\n", bytes(received)):
        parse_head(head)
    found = [int(status) for status in STATUS.findall(bytes(received))]
    assert all(status < 500 for status in found), (data, received)
    return found


mutations = st.lists(
    st.tuples(
        st.sampled_from(("insert", "replace", "delete", "repeat", "cut")),
        st.integers(0, 2**16),
        st.one_of(
            st.binary(min_size=1, max_size=6),
            st.sampled_from(
                [
                    *(
                        b'"',
                        b"{",
                        b"}",
                        b"[",
                        b"]",
                        b",",
                        b":",
                        b"\\",
                        b"\\u0000",
                        b"\\ud800",
                        b"\x00",
                        b"\xff",
                        b"null",
                    ),
                    *(
                        b"NaN",
                        b"-",
                        b"0",
                        b"9" * 40,
                        b".5",
                        b"e9",
                        b"true",
                        b"\r\n",
                        b"\n",
                        b" ",
                        b"%00",
                        b"%",
                        b"HTTP/1.1",
                    ),
                    *(
                        b"Content-Length: 1\r\n",
                        b"Transfer-Encoding: chunked\r\n",
                        b"Host: x\r\n",
                        b"GET / HTTP/1.1\r\n\r\n",
                    ),
                ]
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """Return *data* with each change made at its position."""
    for what, where, piece in changes:
        at = where % (len(data) + 1)
        end = at + len(piece)
        data = {
            "insert": data[:at] + piece + data[at:],
            "replace": data[:at] + piece + data[end:],
            "delete": data[:at] + data[end:],
            "repeat": data[:end] + data[at:],
            "cut": data[:at],
        }[what]
    return data


@FUZZ
@given(place=st.sampled_from(BODIES), body=st.binary(max_size=200))
async def test_any_bytes_are_no_body(book: Book, place: Place, body: bytes) -> None:
    """Random bytes are refused with 400, except an empty object, which changes nothing of an account."""
    assume(body.strip(b" \t\r\n") != b"{}")
    assert await send(book, place, body) == 400


@FUZZ
@given(place=st.sampled_from((*OBJECTS, *BODIES)), changes=mutations)
async def test_a_damaged_body_is_answered(book: Book, place: Place, changes: list[tuple[str, int, bytes]]) -> None:
    """A valid body with some bytes changed is accepted or refused, without a failure."""
    await send(book, place, mutated(place.body(extra='"metadata":{"k":"v"}').encode(), changes))


_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(),
        st.sampled_from(("world", "alice", "EUR", "")),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=8,
)
_names = st.sampled_from(
    (
        *("id", "key", "source", "destination", "amount", "currency", "hold", "expires_in", "reference", "description"),
        *("conditions", "metadata", "floor", "ceiling", "closed", "transfers", "accounts", "atomic", "\ud800", "x/~"),
    )
)


@FUZZ
@given(
    place=st.sampled_from((*OBJECTS, *BODIES)),
    members=st.dictionaries(_names, _values, min_size=1, max_size=4),
    keep=st.booleans(),
    ascii_only=st.booleans(),
)
async def test_any_values_in_known_fields_are_answered(
    book: Book, place: Place, members: dict[str, object], keep: bool, ascii_only: bool
) -> None:
    """Any JSON in any field, and what Python accepts as JSON, is accepted or refused, without a failure."""
    own = {name: json.loads(text) for name, text in place.members.items()} if keep else {}
    text = json.dumps({**own, **members}, ensure_ascii=ascii_only)
    await send(book, place, place.wrap.replace(places.HOLE, text).encode(errors="surrogatepass"))


_bytes = st.binary(max_size=40).map(quote_from_bytes)


@FUZZ
@given(
    template=st.sampled_from(
        (
            *(
                "/v1/accounts/§",
                "/v1/accounts/§/entries",
                "/v1/accounts/§/balance?at=§",
                "/v1/accounts/alice/balance?at=§",
            ),
            *("/v1/accounts?prefix=§", "/v1/accounts?cursor=§", "/v1/accounts?limit=§", "/v1/accounts?§=§"),
            *("/v1/transfers/§", "/v1/transfers?account=§&cursor=§", "/v1/transfers?reference=§&limit=§", "/§", "/§/§"),
            *("/v1/accounts/alice/entries?from=§&to=§", "/v1/accounts/alice/entries?cursor=§", "/problems/§", "/v1/§"),
            *("/v1/idempotency-keys/§", "/v1/accounts/alice?min_version=§", "/v1/accounts?§", "§"),
        )
    ),
    texts=st.lists(
        st.one_of(
            _bytes,
            st.text(st.characters(min_codepoint=33, max_codepoint=126)),
            st.datetimes().map(str),
            st.integers().map(str),
        ),
        min_size=2,
        max_size=2,
    ),
)
async def test_any_target_is_answered(book: Book, template: str, texts: list[str]) -> None:
    """Any path and query is answered without a failure."""
    first, second = texts
    target = template.replace("§", first, 1).replace("§", second)
    await statuses(book, request("GET", target, token=book.client.token))


@FUZZ
@given(
    field=st.sampled_from(
        (
            *(
                "Authorization",
                "Idempotency-Key",
                "Content-Type",
                "Content-Length",
                "Transfer-Encoding",
                "Host",
                "Expect",
            ),
            *("Connection", "Upgrade", "If-Match", "If-None-Match", "X-Request-Id", "Content-Encoding", "TE", "Cookie"),
        )
    ),
    value=st.one_of(st.binary(max_size=60), st.text(max_size=20).map(str.encode)),
    method=st.sampled_from(("GET", "POST", "PATCH", "HEAD")),
)
async def test_any_header_is_answered(book: Book, field: str, value: bytes, method: str) -> None:
    """Any value of a header that the service reads, line breaks included, is answered without a failure."""
    target = "/v1/transfers" if method == "POST" else "/v1/accounts/alice"
    data = request(method, target, field.encode() + b": " + value, JSON, body=TRANSFER, token=book.client.token)
    await statuses(book, data)


@FUZZ
@given(data=st.binary(min_size=1, max_size=400))
async def test_any_bytes_are_no_request(book: Book, data: bytes) -> None:
    """Random bytes on a connection are answered with 400 or not at all, and the connection ends."""
    assert set(await statuses(book, data)) <= {400}


_requests = [
    *broken_http.malformed("", MARK).values(),
    *(entry.data for entry in broken_http.refused("", MARK).values() if len(entry.data) < 2_000),
    request("POST", "/v1/transfers", JSON, "Idempotency-Key: k", "Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n\r\n",
    request("GET", "/livez") * 3,
]


@FUZZ
@given(data=st.sampled_from(_requests), changes=mutations, valid_key=st.booleans())
async def test_a_damaged_request_is_answered_or_ended(
    book: Book, data: bytes, changes: list[tuple[str, int, bytes]], valid_key: bool
) -> None:
    """A request with some bytes changed is answered without a failure, or its connection ends."""
    if valid_key:
        assert book.client.token is not None
        data = data.replace(b"Authorization: Bearer ", b"Authorization: Bearer " + book.client.token.encode())
    await statuses(book, mutated(data, changes))
