"""From what the state machine draws to bytes, and from bytes to what it compares."""

import http.client
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from tests.model.ledger_model import Item, Order
from tests.support.client import Answer

# Seconds after which a request counts as hanging.
HANG_SECONDS = 20.0


class Sent(NamedTuple):
    """A posting request: one key and order, or those of a bulk; `atomic` is None for a single one."""

    pairs: tuple[tuple[str, Order], ...]
    atomic: bool | None

    @classmethod
    def single(cls, key: str, order: Order) -> "Sent":
        """One transfer."""
        return cls(((key, order),), None)

    @classmethod
    def bulk(cls, pairs: Sequence[tuple[str, Order]], *, atomic: bool) -> "Sent":
        """Several."""
        return cls(tuple(pairs), atomic)


def body_of(document: object) -> bytes:
    """Return *document* as JSON."""
    return orjson.dumps(document)


def item_body(key: str | None, order: Order, *, spelled_out: bool = False) -> bytes:
    """Return the JSON of a transfer, with its key where it stands in a bulk; *spelled_out* with defaults and spaces."""
    members = {name: value for name, value in order._asdict().items() if spelled_out or value is not None}
    # orjson stops at 64 bits: larger integers are sent to be refused.
    amount: int = members.pop("amount")
    if spelled_out:
        members = {"metadata": {}, "hold": False, **dict(reversed(list(members.items())))}
    text = body_of({**({} if key is None else {"key": key}), **members})
    last = b' , "amount" : %d }' if spelled_out else b',"amount":%d}'
    return text[:-1] + last % amount


def bulk_body(
    pairs: Sequence[tuple[str, Order]], *, atomic: bool, spelled_out: bool = False
) -> tuple[list[Item], bytes]:
    """Return the items of a bulk and its body."""
    texts = [item_body(key, order, spelled_out=spelled_out) for key, order in pairs]
    body = b'{"transfers":[%b],"atomic":%b}' % (b",".join(texts), b"true" if atomic else b"false")
    return [Item(key, order) for key, order in pairs], body


class Link:
    """
    A connection to one ledger, blocking; opened again after it was closed.

    Args:
        url: Of the server.

        token: A key of the ledger.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=HANG_SECONDS)
        self._token = token

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> "Reply":
        """Send a request and return its answer."""
        fields = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json", **(headers or {})}
        self._connection.request(method, path, body, fields)
        response = self._connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())

    def pages(self, path: str, limit: int) -> list[Any]:
        """Return all rows of a list."""
        rows: list[Any] = []
        cursor = ""
        while True:
            page = self.send("GET", f"{path}?limit={limit}{cursor}").json
            rows += page["data"]
            if page["next_cursor"] is None:
                return rows
            cursor = f"&cursor={page['next_cursor']}"

    def close(self) -> None:
        """Hang up; the next request connects again."""
        self._connection.close()


class Reply(Answer):
    """An answer whose code is None where it is not a problem."""

    @property
    def code(self) -> str | None:  # type: ignore[override]  # here most answers are none
        """The code of a problem."""
        code: str | None = self.json.get("code")
        return code
