"""The requests of a closed-loop run, as bytes; what can be made beforehand is."""

import json
import random
from collections.abc import Callable
from typing import NamedTuple

from loadtests.bench.scale import BULK_TRANSFERS

# Keys that are asked for again and again by `replay`.
REPLAYED_KEYS = 2_000


class Place(NamedTuple):
    """Where requests go; each key stands for a ledger with the same accounts."""

    host: str
    port: int
    keys: list[str]
    accounts: list[str]


class Requests(NamedTuple):
    """
    What a run sends.

    `first` is sent before the run, so that there is something to ask for again, and caches are as full as they get.
    `of` makes the requests of one connection, by the number of its key.
    """

    first: list[bytes]
    of: Callable[[int], Callable[[], bytes]]


def make(workload: str, place: Place, run: str, seed: int) -> Requests:
    """Return the requests of a workload; no two runs with different names share an idempotency key."""
    return _MAKERS[workload](_Source(place, run, seed))


class _Source:
    def __init__(self, place: Place, run: str, seed: int) -> None:
        self.place = place
        self.run = run
        self.random = random.Random(seed)
        self.number = 0

    def head(self, line: str, key: int) -> str:
        place = self.place
        return f"{line} HTTP/1.1\r\nHost: {place.host}:{place.port}\r\nAuthorization: Bearer {place.keys[key]}\r\n"

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def pair(self) -> tuple[str, str]:
        accounts, choice = self.place.accounts, self.random
        source = int(choice.random() * len(accounts))
        step = 1 + int(choice.random() * (len(accounts) - 1))
        return accounts[source], accounts[(source + step) % len(accounts)]


def _bare(source: _Source) -> Requests:
    request = source.head("GET /", 0).encode() + b"\r\n"
    return Requests([], lambda _key: lambda: request)


def _gets(source: _Source, path: str) -> Requests:
    choice, names = source.random, source.place.accounts
    ready = [
        [(source.head(f"GET {path.format(name)}", key) + "\r\n").encode() for name in names]
        for key in range(len(source.place.keys))
    ]
    # Each once beforehand: what is measured finds in a cache what can be there.
    first = [request for some in ready for request in some]
    return Requests(first, lambda key: lambda: ready[key][int(choice.random() * len(names))])


def _read(source: _Source) -> Requests:
    return _gets(source, "/v1/accounts/{}")


def _statement(source: _Source) -> Requests:
    return _gets(source, "/v1/accounts/{}/entries?limit=20")


def _transfer(head: str, key: str, source: str, destination: str) -> bytes:
    body = f'{{"source":"{source}","destination":"{destination}","amount":1,"currency":"EUR"}}'
    return f"{head}Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _post_head(source: _Source, key: int) -> str:
    return source.head("POST /v1/transfers", key) + "Content-Type: application/json\r\n"


def _post(source: _Source) -> Requests:
    def of(key: int) -> Callable[[], bytes]:
        head = _post_head(source, key)
        return lambda: _transfer(head, f"{source.run}-{source.next_number()}", *source.pair())

    return Requests([], of)


def _hot(source: _Source) -> Requests:
    accounts, choice = source.place.accounts, source.random

    def of(key: int) -> Callable[[], bytes]:
        head = _post_head(source, key)

        def request() -> bytes:
            other = accounts[1 + int(choice.random() * (len(accounts) - 1))]
            return _transfer(head, f"{source.run}-{source.next_number()}", accounts[0], other)

        return request

    return Requests([], of)


def _replay(source: _Source) -> Requests:
    head = _post_head(source, 0)
    first = [_transfer(head, f"{source.run}-{number}", *source.pair()) for number in range(REPLAYED_KEYS)]
    choice = source.random
    return Requests(first, lambda _key: lambda: first[int(choice.random() * REPLAYED_KEYS)])


def _bulk(source: _Source) -> Requests:
    def of(key: int) -> Callable[[], bytes]:
        head = source.head("POST /v1/transfers/bulk", key) + "Content-Type: application/json\r\n"

        def request() -> bytes:
            items = []
            for _ in range(BULK_TRANSFERS):
                giver, taker = source.pair()
                fields = {"source": giver, "destination": taker, "amount": 1, "currency": "EUR"}
                items.append({"key": f"{source.run}-{source.next_number()}", **fields})
            body = json.dumps({"transfers": items}, separators=(",", ":"))
            return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

        return request

    return Requests([], of)


_MAKERS: dict[str, Callable[[_Source], Requests]] = {
    "bare": _bare,
    "read": _read,
    "statement": _statement,
    "replay": _replay,
    "post": _post,
    "hot": _hot,
    "bulk": _bulk,
}
NAMES = tuple(_MAKERS)
