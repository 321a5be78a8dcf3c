"""Requests with repeated heads: aiohttp's parser reads each recognized one as the same single request."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.gate.key_store import KeyLimit
from server.gate.keys import ApiKey
from server.gate.tokens import new_key as api_key
from server.http.admission import Admission
from server.http.call import Call
from server.http.limits import BODY_MAX_BYTES, HEADERS_MAX, READ_BUFFER_BYTES, REQUEST_LINE_MAX_BYTES
from server.http.router import Router
from server.http.routes import ROUTES
from server.http.wire.connection import Connection
from server.http.wire.head import Head
from server.http.wire.repeated import HEAD_MAX_BYTES, HEADS_MAX, MISSES_MAX, RepeatedHead, RepeatedHeads
from server.ledger.limits import IDEMPOTENCY_KEY_LENGTH_MAX
from tests.input.test_hot import alone, revoke
from tests.input.wire import Response, Wire, connect, request
from tests.support.client import new_key
from tests.support.hot import BODY, CHUNKED, JSON, OTHER_BODY, Hot, answered, chunks, plain, send_in_pieces
from tests.support.service import in_process, make_key
from tests.support.waiting import until
from tests.telemetry.collector import collecting, said

T = TypeVar("T")

TOKEN, OTHER_TOKEN = (api_key(number).token for number in (1, 2**62))
# Requests that the parser checks; each has up to three changes.
EXAMPLES = 750
SPAN = "b7ad6b7169203331"
VARYING = (b"authorization", b"content-length", b"idempotency-key", b"traceparent", b"x-request-id")


def trace(number: int) -> str:
    """Return the trace id of a request."""
    return f"{number:032x}"


def traceparent(number: int) -> str:
    """Return the header field with that trace id."""
    return f"traceparent: 00-{trace(number)}-{SPAN}-01"


# --- The parser checks.

ID, KEY = "X-Request-Id: id-1", "Idempotency-Key: key-1"
# Requests as clients write them.
ACCEPTED = [
    request("GET", "/v1/accounts/alice", token=TOKEN),
    request("GET", "/v1/accounts/a:b.c_d-e", ID, traceparent(1), 'If-None-Match: "3"', "Accept: */*", token=TOKEN),
    request("POST", "/v1/transfers", JSON, KEY, body=BODY, token=TOKEN),
    request("POST", "/v1/transfers", JSON, f"content-length: {len(BODY)}", ID, KEY, token=TOKEN) + BODY,
    request("POST", "/v1/transfers", traceparent(1), KEY.lower(), JSON, "X-Other: a, b", ID, body=BODY, token=TOKEN),
]
SCRAPS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b"\xff",
        "é".encode(),
        b"%41",
        b"%2f",
        b"?",
        b"?a=1",
        b"#",
        b"/",
        b"//",
    ),
    *(b":", b",", b";", b'"', b"+", b"-", b"0", b"00", b"1", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\n\t", b".."),
]
LINES = [
    *(b"Content-Length: 0", b"Content-Length: 5", b"content-length : 5", b"Content-Length: 05", b"Content-Length: +5"),
    *(
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: identity",
        b"Transfer-Encoding:\tchunked",
        b"Content-Encoding: gzip",
    ),
    *(b"X-Request-Id: second", b"Idempotency-Key: second", traceparent(2).encode(), b"Authorization: Bearer other"),
    *(b"Connection: close", b"Connection: upgrade\r\nUpgrade: h2c", b"Upgrade: websocket", b"Expect: 100-continue"),
    *(b" folded", b"\tfolded", b"no colon", b": no name", b"Name with space: x", b"X-\xff: y", b"X: \xff", b"X: a\0b"),
]


class Draw(Protocol):
    """The draw function of a composite strategy."""

    def __call__(self, strategy: st.SearchStrategy[T], /) -> T:
        """Return a value of the strategy."""


def replaced(draw: Draw, data: bytes) -> bytes:
    """Replace some bytes by another byte or nothing."""
    start = draw(st.integers(0, len(data)))
    return data[:start] + draw(st.binary(max_size=1)) + data[start + draw(st.integers(0, 3)) :]


def inserted(draw: Draw, data: bytes) -> bytes:
    """Insert a scrap anywhere."""
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.sampled_from(SCRAPS)) + data[at:]


def more_lines(draw: Draw, data: bytes) -> bytes:
    """Add or repeat a line of the head."""
    head, end, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(LINES + lines)))
    return b"\r\n".join(lines) + end + body


def other_line_ends(draw: Draw, data: bytes) -> bytes:
    """Change some line ends."""
    return data.replace(
        b"\r\n", draw(st.sampled_from([b"\n", b"\r", b"\r\r\n", b" \r\n", b"\r\n "])), draw(st.integers(1, 9))
    )


def other_value(draw: Draw, data: bytes) -> bytes:
    """Change a text that may differ between requests, to a valid or an invalid one."""
    texts = st.one_of(
        st.text("azAZ09._:-", min_size=1, max_size=70),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
        st.sampled_from(["", " ", "a b", " a", "a ", "a\tb", '"quoted"', "x" * 255, "x" * 256, trace(7), "0", "007"]),
        st.integers(0, 99).map(lambda number: traceparent(number).partition(": ")[2]),
    )
    head, end, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    places = [n for n, line in enumerate(lines) if not n or line.lower().startswith(VARYING)]
    place = draw(st.sampled_from(places))
    tokens = st.sampled_from([f"Bearer {OTHER_TOKEN}", f"bearer {OTHER_TOKEN}", f"Bearer {TOKEN}0", OTHER_TOKEN])
    text = draw(tokens if lines[place].lower().startswith(b"authorization") else texts).encode()
    if place == 0:
        before, _, after = lines[0].partition(b"/v1/accounts/")
        lines[0] = before + b"/v1/accounts/" + text + after[after.find(b" ") :]
    else:
        lines[place] = lines[place].partition(b":")[0] + b": " + text
    return b"\r\n".join(lines) + end + body


def other_body(draw: Draw, data: bytes) -> bytes:
    """Change the body, with or without its length, in chunks or not."""
    bodies = st.one_of(
        st.sampled_from([b"", OTHER_BODY, *ACCEPTED, b"x" * (BODY_MAX_BYTES + 1)]), st.binary(max_size=99)
    )
    body = draw(bodies)
    head = data.partition(b"\r\n\r\n")[0]
    lines = head.split(b"\r\n")
    told = draw(st.sampled_from([b"Content-Length: %d" % len(body)] * 3 + [None, CHUNKED.encode()]))
    if told is not None:
        name = b"content-length:"
        lines = [told if line.lower().startswith(name) and told[:1] == b"T" else line for line in lines]
        if told[:1] != b"T":
            lines = [
                line[: len(name)] + b" %d" % len(body) if line.lower().startswith(name) else line for line in lines
            ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (chunks(body, 20) if told == CHUNKED.encode() and body else body)


def more(draw: Draw, data: bytes) -> bytes:
    """Append bytes, or cut the request."""
    return (
        data[: draw(st.integers(0, len(data)))]
        if draw(st.booleans())
        else data + draw(st.one_of(st.sampled_from([*SCRAPS, *ACCEPTED]), st.binary(min_size=1, max_size=9)))
    )


@st.composite
def mutated(draw: Draw) -> tuple[bytes, bytes]:
    """Return an accepted request, and a changed one that may look like it."""
    data = before = draw(st.sampled_from(ACCEPTED))
    harmless, any_ = (
        [other_value, other_body],
        [replaced, inserted, more_lines, other_line_ends, other_value, other_body, more],
    )
    for kinds in draw(st.lists(st.sampled_from([harmless, any_]), max_size=3)):
        data = draw(st.sampled_from(kinds))(draw, data)
    return before, data


class Parser:
    """aiohttp's parser, configured as in the server."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def read(self, data: bytes) -> "list[tuple[RawRequestMessage, StreamReader]] | None":
        """Return the requests in *data* at the start of a connection, or None if any of it is wrong."""
        parser = HttpRequestParser(
            BaseProtocol(self.loop),
            self.loop,
            READ_BUFFER_BYTES,
            max_line_size=REQUEST_LINE_MAX_BYTES,
            max_field_size=REQUEST_LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            auto_decompress=False,
        )
        try:
            messages, upgraded, tail = parser.feed_data(data)
        except HttpProcessingError:
            return None
        return None if upgraded or tail else list(messages)

    def call(self, data: bytes) -> Call:
        """Return the call of *data*, which is one valid request with a known key."""
        ((message, payload),) = self.read(data) or []
        head = Head(message)
        head.check()
        path, _, query = message.path.partition("?")
        call = Call((message.method, path, query), head, payload, CONNECTION, admission=ADMISSION, arrived=0.0)
        match = ROUTER.find(path)
        call.route = None if match is None else match[0].get(message.method)
        call.key = cast(ApiKey, None)
        return call


ROUTER = Router(ROUTES)
CONNECTION = cast(RequestHandler, SimpleNamespace(peername=None, transport=None))
ADMISSION = cast(Admission, None)


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    """One parser for all tests of this file."""
    found = Parser()
    yield found
    found.loop.close()


def remembering(parser: Parser, *requests: bytes) -> RepeatedHeads:
    """Return heads that remember these requests."""
    heads = RepeatedHeads()
    for data in requests:
        heads.remember(data, parser.call(data))
    return heads


def others(fields: "tuple[tuple[bytes, bytes], ...]") -> list[tuple[bytes, bytes]]:
    """Return the fields in order, without the values of those that may differ between requests."""
    return [(name, b"" if name.lower() in VARYING else value) for name, value in fields]


def assert_same(parser: Parser, call: Call, before: bytes, data: bytes) -> None:
    """Check that the parser reads *data*, behind another request, as exactly the one request of the call."""
    messages = parser.read(before + data)
    assert messages is not None
    assert len(messages) == 2
    message, payload = messages[1]
    head = Head(message)
    head.check()
    assert payload.is_eof()
    assert (head.keeps_alive, message.chunked, message.upgrade, message.compression) == (True, False, False, None)
    assert (call.method, f"{call.path}", call.query_string) == (message.method, message.path, "")
    assert call.content == payload.read_nowait()
    assert int(message.headers.get("Content-Length", "0")) == len(call.content)
    assert (call.idempotency_key, call.traceparent) == (head.idempotency_key, head.traceparent)
    assert head.request_id in (None, call.request_id)
    assert ("X-Request-Id" in message.headers) == (head.request_id is not None)
    assert others(call.head.raw_headers) == others(message.raw_headers)
    assert (call.token, call.token_name, call.head.version) == (head.token, head.token_name, head.version)


def test_whatever_is_recognized_the_parser_reads_alike(parser: Parser) -> None:
    """Each recognized request is one request to the parser too, and the same one."""
    recognized = {False: 0, True: 0}

    @settings(
        derandomize=True, max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutated())
    def check(pair: tuple[bytes, bytes]) -> None:
        before, data = pair
        call = remembering(parser, before).call(data, CONNECTION, ADMISSION)
        recognized[call is not None] += data != before
        if call is not None:
            assert_same(parser, call, before, data)

    check()
    assert min(recognized.values()) > EXAMPLES // 20, recognized


def test_few_heads_are_remembered(parser: Parser) -> None:
    """A connection remembers the last few heads in the order of their use, each once."""
    requests = [request("GET", "/v1/accounts/alice", f"X: {number}", token=TOKEN) for number in range(HEADS_MAX + 2)]
    heads = remembering(parser, *requests, requests[-1])

    def known(data: bytes) -> bool:
        return heads.call(data, CONNECTION, ADMISSION) is not None

    assert len(heads._heads) == HEADS_MAX
    assert known(requests[2])
    heads.remember(requests[0], parser.call(requests[0]))
    assert [known(data) for data in requests] == [True, False, True, False, True, True], "the longest unused has gone"
    assert len(heads._heads) == HEADS_MAX


def test_what_never_repeats_is_seldom_remembered(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    """If heads do not repeat, few are remembered; after the first repeat all are again."""
    asked: list[bytes] = []
    of = RepeatedHead.of

    def noted(data: bytes, call: Call) -> RepeatedHead | None:
        asked.append(data)
        return of(data, call)

    monkeypatch.setattr(RepeatedHead, "of", noted)
    heads = RepeatedHeads()
    for number in range(10 * MISSES_MAX):
        data = request("GET", "/v1/accounts/alice", f"X: {number}", token=TOKEN)
        assert heads.call(data, CONNECTION, ADMISSION) is None
        heads.remember(data, parser.call(data))
    assert len(asked) == MISSES_MAX + 9
    assert heads.call(asked[-1], CONNECTION, ADMISSION) is not None
    for data in asked[:2]:
        heads.remember(data, parser.call(data))
    assert len(asked) == MISSES_MAX + 11


LARGE = request("GET", "/v1/accounts/alice", "X: " + "x" * HEAD_MAX_BYTES, token=TOKEN)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(LARGE, id="large"),
        pytest.param(request("GET", "/v1/accounts/alice", "Connection: close", token=TOKEN), id="ends the connection"),
        pytest.param(request("GET", "/v1/accounts/alice", token=TOKEN, body=b""), id="a read with a length"),
        pytest.param(request("GET", "/v1/accounts/alice", "X:y", token=TOKEN), id="written otherwise"),
        pytest.param(request("GET", "/v1/accounts/alice", ID, ID, token=TOKEN), id="two ids"),
        pytest.param(request("GET", "/v1/accounts/alice", "X-Request-Id: a b", token=TOKEN), id="no sane id"),
        pytest.param(request("GET", "/v1/accounts/%61", token=TOKEN), id="an escape"),
        pytest.param(request("GET", "/v1/accounts/a?min_version=1", token=TOKEN), id="a query"),
        pytest.param(request("GET", "/v1/accounts", token=TOKEN), id="another route"),
        pytest.param(request("HEAD", "/v1/accounts/alice", token=TOKEN), id="another method"),
        pytest.param(request("POST", "/v1/transfers", JSON, token=TOKEN, body=BODY), id="no key"),
        pytest.param(request("POST", "/v1/transfers", JSON, KEY, token=TOKEN), id="no length"),
        pytest.param(
            request("POST", "/v1/transfers", JSON, KEY, "Content-Encoding: gzip", token=TOKEN, body=BODY), id="coded"
        ),
        pytest.param(
            request("POST", "/v1/transfers", JSON, KEY, CHUNKED, token=TOKEN) + chunks(BODY, 20), id="in chunks"
        ),
        pytest.param(
            request("POST", "/v1/transfers", JSON, 'Idempotency-Key: "a"', token=TOKEN, body=BODY), id="a quoted key"
        ),
    ],
)
def test_what_is_not_remembered(parser: Parser, data: bytes) -> None:
    """A request in an unusual form is parsed each time, even if the same bytes repeat."""
    assert remembering(parser, data).call(data, CONNECTION, ADMISSION) is None


# --- The service.


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods and paths of requests with recognized heads."""
    paths: list[str] = []
    call = RepeatedHeads.call

    def noted(self: RepeatedHeads, *arguments: Any) -> Call | None:
        found = call(self, *arguments)
        if found is not None:
            paths.append(f"{found.method} {found.path}")
        return found

    monkeypatch.setattr(RepeatedHeads, "call", noted)
    return paths


async def told(wire: Wire, data: bytes) -> Response:
    """Return the answer to a request."""
    await wire.send(data)
    return await answered(wire)


WRITTEN = "POST /v1/transfers"


@pytest.mark.parametrize("lines", [(), ("X-Request-Id: id", "Accept: */*")], ids=["plain", "with an id"])
async def test_answers_are_those_of_requests_alone(hot: Hot, repeated: list[str], lines: tuple[str, ...]) -> None:
    """A request with a repeated head is answered as on its own connection, whatever it asks for."""
    accounts = ["alice", "bob", "nobody", "bulk", "A:b._-", "a" * 64, "alice"]
    bodies = [BODY, b"", b"{}", b"no JSON", b" " + BODY, BODY.replace(b"alice", b"nobody"), b'{"a":1,"a":2}', b"\xff"]
    keys = [new_key() for _ in bodies]
    requests = [hot.get(account, *lines) for account in accounts]
    requests += [hot.post(key, *lines, body=body) for key, body in zip(keys, bodies, strict=True)]
    # A key that is already bound, with the same request and with others.
    requests += [hot.post(keys[0], *lines, body=body) for body in (bodies[0], bodies[4], OTHER_BODY)]
    for data in requests:
        # From here on every posting is a replay.
        await alone(hot, data)
    expected = [await alone(hot, data) for data in requests]
    async with connect(hot.url) as wire:
        for data in (requests[0], requests[7]):
            await told(wire, data)
        assert repeated == []
        answers = [await told(wire, data) for data in requests]
    assert [plain(answer) for answer in answers] == [plain(answer) for answer in expected]
    assert len(repeated) == len(requests)


async def test_each_is_known_by_its_own_id_and_key(hot: Hot, repeated: list[str]) -> None:
    """Ids and keys are those of the request itself, never those of the remembered one."""
    keys = [new_key() for _ in range(4)]
    async with connect(hot.url) as wire:
        for number, key in enumerate(keys):
            for data in (
                hot.get(f"nobody-{number}", f"X-Request-Id: r{number}"),
                hot.post(key, f"X-Request-Id: w{number}"),
            ):
                answer = await told(wire, data)
                assert answer.headers["x-request-id"] == f"{'w' if answer.status == 201 else 'r'}{number}"
                assert answer.json.get("request_id") in (None, f"r{number}")
                assert "idempotent-replayed" not in answer.headers
                if answer.status == 201:
                    assert (await hot.client.get(f"/v1/idempotency-keys/{key}")).json["id"] == answer.json["id"]
        refused = await told(wire, hot.post(new_key(), "X-Request-Id: no", body=BODY.replace(b"world", b"nobody")))
        assert (refused.status, refused.json["request_id"]) == (404, "no")
        # Each request without an id gets its own.
        ids = [(await told(wire, hot.get())).headers["x-request-id"] for _ in range(3)]
        assert len({*ids, "no", "r3", "w3"}) == 6
    assert len(repeated) == 2 * 3 + 1 + 2


async def test_each_belongs_to_its_own_trace(database_url: str, repeated: list[str]) -> None:
    """The span of a request with a repeated head belongs to the trace that the request names."""
    async with (
        collecting() as collector,
        in_process(database_url, otel_endpoint=collector.url, otel_sample=0) as service,
    ):
        client = await service.client("traced")
        await client.open("alice")
        async with connect(service.url) as wire:
            for number in range(1, 5):
                fields: tuple[str, ...] = (f"X-Request-Id: {trace(number)}", traceparent(number))
                await told(wire, request("GET", "/v1/accounts/alice", *fields, token=client.token))
                fields = (*fields, JSON, f"Idempotency-Key: {number}")
                await told(wire, request("POST", "/v1/transfers", *fields, body=BODY, token=client.token))
    whole = [span for span in collector.spans if "/v1/" in span.name]
    assert len(whole) == 8
    assert all(span.trace_id.hex() == said(span)["tallystick.request_id"] for span in whole)
    assert len(repeated) == 6


@pytest.mark.parametrize("key", ["é", "x" * (IDEMPOTENCY_KEY_LENGTH_MAX + 1), "a b", "", '"'])
async def test_an_odd_key_is_left_to_the_parser(hot: Hot, repeated: list[str], key: str) -> None:
    """A key in another form than before is accepted or refused as usual."""
    quoted = new_key()
    async with connect(hot.url) as wire:
        assert (await told(wire, hot.post(new_key()))).status == 201
        answer = await told(wire, hot.post(key))
        assert (answer.status, answer.json["code"]) == (400, "idempotency_key_invalid")
        assert (await told(wire, hot.post(f'"{quoted}"'))).status == 201
        # An invalid request does not affect the next one.
        assert (await told(wire, hot.post(new_key()))).status == 201
    assert repeated == [WRITTEN]
    assert await hot.bound(quoted)


async def test_what_a_key_may_not_do_stays_so(hot: Hot, repeated: list[str]) -> None:
    """A missing role and a used-up limit are refused each time, and each admitted request takes a token."""
    reader = await make_key(hot.service.database_url, "hot", "read")
    poor = await make_key(hot.service.database_url, "hot", "admin", KeyLimit(1, 1_000, 4, 100))
    async with connect(hot.url) as wire:
        assert [(await told(wire, hot.post(new_key(), token=reader))).status for _ in range(3)] == [403] * 3
        # The first request makes the worker know the key, the second makes the connection know the head.
        assert repeated == [WRITTEN]
        answers = [await told(wire, hot.get(token=poor)) for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 4 + [429] * 2
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=3", "r=2", "r=1", *["r=0"] * 3]
        # The next caller on the same connection has its own limit.
        assert (await told(wire, hot.get())).status == 200
        assert (await told(wire, hot.get(token=poor))).status == 429
    assert len(repeated) == 1 + 4 + 2


async def test_callers_take_turns_on_a_connection(hot: Hot, repeated: list[str]) -> None:
    """If a balancer mixes callers on a connection, each request is answered for its own caller and ledger."""
    other = await hot.service.client("repeated-other")
    assert (await other.open("bob")).status == 201
    tokens = [hot.client.token, other.token]
    async with connect(hot.url) as wire:
        for _ in range(3):
            found = [(await told(wire, hot.get("alice", token=token))).status for token in tokens]
            assert found == [200, 404]
    assert len(repeated) == 5


async def test_a_stranger_is_none_the_less_one_for_a_head_that_is_known(hot: Hot, repeated: list[str]) -> None:
    """A known head with another token is refused: an unknown token at the gate, a malformed one after parsing."""
    unknown = api_key(1).token
    async with connect(hot.url) as wire:
        for token, status in (
            (hot.client.token, 200),
            (unknown, 401),
            (f"{unknown[:-1]}{'1' if unknown[-1] == '0' else '0'}", 401),
            (unknown.upper(), 401),
            (hot.client.token, 200),
        ):
            answer = await told(wire, hot.get("alice", token=token))
            assert (answer.status, "ratelimit" in answer.headers) == (status, status == 200)
    assert len(repeated) == 3


async def test_strangers_are_not_remembered(hot: Hot, repeated: list[str]) -> None:
    """A request without a valid key is refused each time, and its head is not remembered."""
    async with connect(hot.url) as wire:
        for token in ("nonsense", None, f"{hot.client.token}x"):
            for _ in range(2):
                data = request("GET", "/v1/accounts/alice", token=token)
                assert (await told(wire, data)).status == 401
    assert repeated == []


async def test_a_key_that_is_revoked_opens_nothing(hot: Hot, repeated: list[str]) -> None:
    """A repeated head does not keep a revoked key valid."""
    client = await hot.service.client("hot")
    async with connect(hot.url) as wire:
        for _ in range(3):
            assert (await told(wire, hot.get(token=client.token))).status == 200
        await revoke(hot, client)
        assert (await told(wire, hot.get(token=client.token))).status == 401
    assert len(repeated) == 2


async def test_a_connection_ends_while_the_service_drains(
    hot: Hot, repeated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the service drains, a request is answered and its connection closed."""
    async with connect(hot.url) as wire:
        for _ in range(2):
            assert (await told(wire, hot.get())).status == 200
        monkeypatch.setattr(hot.server.open_connections, "draining", True)
        await wire.send(hot.get())
        (last,) = await wire.receive_all()
        assert (last.status, last.headers["connection"]) == (200, "close")
    assert len(repeated) == 1


async def test_what_comes_in_pieces_or_behind_another_is_parsed(hot: Hot, repeated: list[str]) -> None:
    """A part of a request is never recognized as a request, nor are bytes behind it or in its body."""
    keys = [new_key() for _ in range(4)]
    whole = hot.post(keys[1])
    smuggled = hot.post(keys[2])
    for cut in (3, len(whole) - len(BODY), len(whole) - 1):
        async with connect(hot.url) as wire:
            for _ in range(2):
                await told(wire, hot.post(keys[0]))
            seen = len(repeated)
            # A request inside another request's body is only a body.
            assert (await told(wire, hot.post(keys[3], body=smuggled))).status == 400
            assert len(repeated) == seen + 1
            await send_in_pieces(wire, whole, [cut])
            assert (await answered(wire)).status == 201
            await wire.send(hot.get() + hot.get("nobody"))
            assert [(await answered(wire)).status for _ in range(2)] == [200, 404]
            # The same, if the outer request arrives in two packets.
            await send_in_pieces(
                wire, hot.post(keys[3], body=smuggled), [len(hot.post(keys[3], body=smuggled)) - len(smuggled)]
            )
            assert (await answered(wire)).status == 400
            assert len(repeated) == seen + 1
    assert [await hot.bound(key) for key in keys] == [True, True, False, False]


async def test_a_part_of_a_head_is_never_taken_for_a_request(hot: Hot, repeated: list[str]) -> None:
    """A packet that is a whole request by itself is not recognized if it continues an earlier head."""
    beginning = b"POST /v1/transfers HTTP/1.1\r\nX-Other: "
    async with connect(hot.url) as wire:
        for _ in range(2):
            assert (await told(wire, hot.get())).status == 200
        await send_in_pieces(wire, beginning + hot.get(), [len(beginning)])
        assert (await answered(wire)).json["code"] == "unsupported_media_type"
        assert (await told(wire, hot.get())).status == 200
    assert len(repeated) == 1


@pytest.mark.parametrize("cut", [None, 10], ids=["whole", "in part"])
async def test_a_request_may_come_with_its_connection(
    hot: Hot, repeated: list[str], monkeypatch: pytest.MonkeyPatch, cut: int | None
) -> None:
    """If a whole request arrives before aiohttp's task starts, as under uvloop, later heads are recognized."""
    made = Connection.connection_made

    def made_with_request(self: Connection, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        assert not self.aiohttp_waits
        self.data_received(hot.get()[:cut])

    monkeypatch.setattr(Connection, "connection_made", made_with_request)
    async with connect(hot.url) as wire:
        if cut is not None:
            await wire.send(hot.get()[cut:])
        assert (await answered(wire)).status == 200
        for _ in range(3):
            assert (await told(wire, hot.get())).status == 200
    assert repeated == (["GET /v1/accounts/alice"] * 2 if cut is None else [])


async def test_what_comes_while_another_is_under_way_waits(hot: Hot, repeated: list[str]) -> None:
    """Requests with the same head are answered one by one, in order."""
    async with connect(hot.url) as wire:
        for _ in range(2):
            await told(wire, hot.get("nobody"))
        with hot.redis_held():
            await wire.send(hot.get("alice"))
            await until(lambda: len(repeated) == 2)
            await wire.send(hot.get("nobody"))
            await until(lambda: any(cast(Connection, one)._messages for one in hot.server.connections))
            assert len(repeated) == 2
            hot.resume()
            assert [(await answered(wire)).status for _ in range(2)] == [200, 404]


async def test_nothing_is_recognized_behind_a_tunnel(hot: Hot, repeated: list[str]) -> None:
    """Bytes behind CONNECT are not recognized as requests, because the parser takes them as another protocol."""
    async with connect(hot.url) as wire:
        for _ in range(2):
            await told(wire, hot.get())
        await wire.send(request("CONNECT", "ledger:443", token=hot.client.token))
        assert (await answered(wire)).status == 404
        key = new_key()
        await send_in_pieces(wire, hot.get() + hot.post(key), [len(hot.get())])
        wire.finish()
        await wire.receive_all()
    assert len(repeated) == 1
    assert not await hot.bound(key)
