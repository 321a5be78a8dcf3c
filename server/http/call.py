"""One request on its way through the service."""

import itertools
import secrets

from aiohttp import StreamReader
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDictProxy

from server.gate.gate import Decision
from server.gate.keys import ApiKey
from server.http.admission import Admission
from server.http.bulk_admission import Room
from server.http.route import Route
from server.http.wire.head import Head
from server.telemetry.tallies import Timing

# Request ids of this process: a random part, then a count.
_process = secrets.token_hex(6)
_counter = itertools.count(1)


def new_request_id() -> str:
    """Return the id of a request whose caller gave it none."""
    return f"{_process}-{next(_counter):x}"


class Call:
    """
    A request, and what each step of its way adds to it.

    Args:
        start: Method, path and query as received.

        head: Its header fields.

        content: The body: all of it, or what gives it as it arrives.

        connection: Where it came from.

        admission: Where its place is.

        arrived: When it had been read, on the clock of `time.monotonic`, in seconds.

    Attributes:
        token: Of the Bearer scheme; empty where there is none.

        token_name: Its hash, by which it is known.

        request_id: The caller's, or else one of ours.

        idempotency_key: As given, good or not; None where there is none.

        traceparent: As given; empty where there is none.

        route: What it asks for; None where there is no such path or method.

        names: The texts that the names in the route's path stand for.

        key: The key it came with, once that is known.

        placed: Whether it holds a place of the admission.

        room: What the transfers of a bulk take up besides; None where it is no bulk, or has none yet.

        gated: When the gate had let it in, on the same clock; 0 before.

        decision: What the gate has decided, and found for it.

        limit_fields: The header lines about the limit, once the gate has been asked.

        body: As received, once it has been read.

        fingerprint: Hash of a transfer's request as received.

        timing: How long a transfer waited and took.
    """

    __slots__ = (
        "admission",
        "arrived",
        "body",
        "connection",
        "content",
        "decision",
        "fingerprint",
        "gated",
        "head",
        "idempotency_key",
        "key",
        "limit_fields",
        "method",
        "names",
        "path",
        "placed",
        "query_string",
        "request_id",
        "room",
        "route",
        "timing",
        "token",
        "token_name",
        "traceparent",
        "write",
    )

    key: ApiKey
    decision: Decision
    body: bytes
    fingerprint: bytes

    def __init__(
        self,
        start: tuple[str, str, str],
        head: Head,
        content: StreamReader | bytes,
        connection: RequestHandler,
        *,
        admission: Admission,
        arrived: float,
    ) -> None:
        self.method, self.path, self.query_string = start
        self.head = head
        self.content = content
        self.connection = connection
        self.admission = admission
        self.arrived = arrived
        self.route: Route | None = None
        self.names: tuple[str, ...] = ()
        self.placed = False
        self.room: Room | None = None
        self.gated = 0.0
        self.limit_fields = b""
        self.timing: Timing | None = None
        self.write = self.method not in ("GET", "HEAD", "OPTIONS")
        # Of this request, where the head may be that of another with the same fields but for these.
        self.token, self.token_name = head.token, head.token_name
        self.request_id = head.request_id or new_request_id()
        self.idempotency_key = head.idempotency_key
        self.traceparent = head.traceparent

    @property
    def authenticated(self) -> bool:
        """Whether it is known whose request it is."""
        return hasattr(self, "key")

    @property
    def route_path(self) -> str:
        """The path of its route, with names; `other` where there is none."""
        return "other" if self.route is None else self.route.path

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The header fields."""
        return self.head.headers

    @property
    def ledger_id(self) -> int:
        """The ledger of the key, and so of everything this request can see."""
        return self.key.ledger_id

    @property
    def remote(self) -> str:
        """The network address at the other end of the connection; empty where there is none."""
        peer = self.connection.peername
        return str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def gone(self) -> bool:
        """Whether the caller has closed the connection."""
        return self.connection.transport is None

    def release_place(self) -> None:
        """Give its place to another request: it has ended, or waits for something that takes no place."""
        if self.placed:
            self.placed = False
            self.admission.leave(write=self.write)
        if self.room is not None:
            self.room.leave()
