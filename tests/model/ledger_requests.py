"""From what the state machine draws to bytes, and from bytes to what it compares."""

import http.client
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from tests.model.ledger_orders import Asked, Follow, Item, Order
from tests.support.client import Answer

# Seconds after which a request counts as hanging.
HANG_SECONDS = 45.0
# The last part of the path of what follows a transfer.
ACTIONS = {"capture": "capture", "void": "void", "reversal": "reverse"}
# An id that no transfer has: that of a parent which does not exist.
NO_ID = "00000000-0000-7000-8000-000000000000"
# What the model's zero is in value dates. It lies before all postings; what the model asks for lies years from it.
_ZERO = datetime(2020, 1, 1, tzinfo=UTC)


class Sent(NamedTuple):
    """A posting request: one key and what is asked, or those of a bulk; `atomic` is None for a single one."""

    pairs: tuple[tuple[str, Asked], ...]
    atomic: bool | None

    @classmethod
    def single(cls, key: str, asked: Asked) -> "Sent":
        """One request."""
        return cls(((key, asked),), None)

    @classmethod
    def bulk(cls, pairs: Sequence[tuple[str, Asked]], *, atomic: bool) -> "Sent":
        """Several."""
        return cls(tuple(pairs), atomic)


def body_of(document: object) -> bytes:
    """Return *document* as JSON."""
    return orjson.dumps(document)


def instant_of(seconds: int) -> str:
    """Return an instant of the model as requests write it."""
    return (_ZERO + timedelta(seconds=seconds)).isoformat()


class Requests:
    """
    Writes requests.

    Args:
        ids: The id of the transfer that each key is bound to, as far as they are known.
    """

    def __init__(self, ids: Mapping[str, str]) -> None:
        self._ids = ids

    def path(self, asked: Asked) -> str:
        """Return where a single request is sent."""
        if isinstance(asked, Order):
            return "/v1/transfers"
        return f"/v1/transfers/{self._ids.get(asked.parent, NO_ID)}/{ACTIONS[asked.kind]}"

    def single(self, asked: Asked, *, spelled_out: bool = False) -> bytes:
        """Return the body of a single request; *spelled_out* with defaults and spaces."""
        return _text(_members(asked, spelled_out=spelled_out), asked.amount, spelled_out=spelled_out)

    def item(self, key: str, asked: Asked, *, spelled_out: bool = False) -> bytes:
        """Return an item of a bulk."""
        members: dict[str, Any] = {"key": key}
        if isinstance(asked, Follow):
            named = ("parent_key", asked.parent) if asked.by_key else ("parent", self._ids.get(asked.parent, NO_ID))
            members.update({"kind": asked.kind, named[0]: named[1]})
        members.update(_members(asked, spelled_out=spelled_out))
        return _text(members, asked.amount, spelled_out=spelled_out)

    def bulk(
        self, pairs: Sequence[tuple[str, Asked]], *, atomic: bool, spelled_out: bool = False
    ) -> tuple[list[Item], bytes]:
        """Return the items of a bulk and its body."""
        texts = [self.item(key, asked, spelled_out=spelled_out) for key, asked in pairs]
        body = b'{"transfers":[%b],"atomic":%b}' % (b",".join(texts), b"true" if atomic else b"false")
        return [Item(key, asked) for key, asked in pairs], body


def _members(asked: Asked, *, spelled_out: bool) -> dict[str, Any]:
    """Return what a body says, but for the amount."""
    if isinstance(asked, Follow):
        if asked.kind != "capture" or (asked.release_rest and not spelled_out):
            return {}
        return {"release_rest": asked.release_rest}
    members = asked._asdict()
    del members["amount"]
    if not spelled_out:
        members = {name: value for name, value in members.items() if value not in (None, False)}
    if asked.effective_at is not None:
        members["effective_at"] = instant_of(asked.effective_at)
    if spelled_out:
        lifetime = {"expires_in": asked.lifetime} if asked.hold else {}
        members = {"metadata": {}, **dict(reversed(list(members.items()))), **lifetime}
    return members


def _text(members: Mapping[str, Any], amount: int | None, *, spelled_out: bool) -> bytes:
    """Return the JSON of an item; orjson stops at 64 bits, and larger amounts are sent to be refused."""
    text = body_of(members)
    if amount is None:
        return text
    joint = b"" if not members else b" , " if spelled_out else b","
    last = b'"amount" : %d }' if spelled_out else b'"amount":%d}'
    return text[:-1] + joint + last % amount


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
