"""A request on its way through the service."""

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

# The request ids of this process are a random part and a count.
_process = secrets.token_hex(6)
_counter = itertools.count(1)


def new_request_id() -> str:
    """Return a new id for a request whose caller gave none."""
    return f"{_process}-{next(_counter):x}"


class Call:
    """
    A request, with the results of each step on its way.

    Args:
        start: Method, path and query as received.

        head: The header fields.

        content: The body, or a stream of it.

        connection: The connection that the request came from.

        admission: The admission in which the request holds its place.

        arrived: When the request had been read, on the clock of `time.monotonic`, in seconds.

    Attributes:
        token: The Bearer token; empty if absent.

        token_name: The hash of the token, which identifies it.

        request_id: The caller's, or else a new one.

        idempotency_key: As given, valid or not; None if absent.

        traceparent: As given; empty if absent.

        route: The route of the request; None if there is no such path or method.

        names: The texts in the path at the places of the route's names.

        key: The API key of the request, once it is known.

        placed: Whether the request holds a place of the admission.

        room: The room of a bulk's transfers; None before the bulk has it, and for other requests.

        gated: When the gate let the request in, on the same clock; 0 before.

        decision: What the gate decided and found for the request.

        limit_fields: The header lines about the limit, once the gate has answered.

        body: As received, once it has been read.

        fingerprint: The hash of a transfer's request as received.

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
        # Copied, because a repeated head is shared by requests that differ in these fields.
        self.token, self.token_name = head.token, head.token_name
        self.request_id = head.request_id or new_request_id()
        self.idempotency_key = head.idempotency_key
        self.traceparent = head.traceparent

    @property
    def authenticated(self) -> bool:
        """Whether the key of the request is known."""
        return hasattr(self, "key")

    @property
    def route_path(self) -> str:
        """The path of the route, with names; `other` if there is no route."""
        return "other" if self.route is None else self.route.path

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The header fields."""
        return self.head.headers

    @property
    def ledger_id(self) -> int:
        """The ledger of the key, which is the only ledger that this request can see."""
        return self.key.ledger_id

    @property
    def remote(self) -> str:
        """The network address at the other end of the connection; empty if it has none."""
        peer = self.connection.peername
        return str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def gone(self) -> bool:
        """Whether the caller has closed the connection."""
        return self.connection.transport is None

    def release_place(self) -> None:
        """Give back the request's place and room: it has ended, or waits for something that needs no place."""
        if self.placed:
            self.placed = False
            self.admission.leave(write=self.write)
        if self.room is not None:
            self.room.leave()
