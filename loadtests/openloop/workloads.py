"""The requests of a run, as bytes: made when they are due, so that a long run takes no memory."""

import bisect
import itertools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

# Exponent of Zipf's law: a few accounts get most of the requests.
ZIPF = 1.1


class Target(NamedTuple):
    """Where requests go."""

    host: str
    port: int
    key: str
    accounts: Sequence[str]
    currency: str = "EUR"


# Takes the number of a request, returns it as bytes.
Workload = Callable[[int], bytes]


def key_of(run: str, number: int) -> str:
    """Return the idempotency key of a request."""
    return f"{run}-{number}"


class _Requests:
    def __init__(self, target: Target, run: str, seed: int) -> None:
        self._target = target
        self._run = run
        self._random = random.Random(seed)
        weights = itertools.accumulate(1 / rank**ZIPF for rank in range(1, len(target.accounts) + 1))
        self._weights = list(weights)
        fields = f"Host: {target.host}:{target.port}\r\nAuthorization: Bearer {target.key}\r\n"
        self._get_end = f" HTTP/1.1\r\n{fields}\r\n"
        self._post_start = f"POST /v1/transfers HTTP/1.1\r\n{fields}Content-Type: application/json\r\nIdempotency-Key: "

    def _account(self) -> str:
        rank = bisect.bisect(self._weights, self._random.random() * self._weights[-1])
        return self._target.accounts[min(rank, len(self._weights) - 1)]

    def read(self, _number: int) -> bytes:
        return f"GET /v1/accounts/{self._account()}{self._get_end}".encode()

    def post(self, number: int) -> bytes:
        source, destination = self._random.sample(self._target.accounts, 2)
        return self._transfer(number, source, destination)

    def hot(self, number: int) -> bytes:
        return self._transfer(number, self._target.accounts[0], self._random.choice(self._target.accounts[1:]))

    def mixed(self, number: int) -> bytes:
        return self.read(number) if number % 5 == 0 else self.post(number)

    def _transfer(self, number: int, source: str, destination: str) -> bytes:
        body = f'{{"source":"{source}","destination":"{destination}","amount":1,"currency":"{self._target.currency}"}}'
        return f"{self._post_start}{key_of(self._run, number)}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


# read: one account; post: a transfer between two; hot: transfers from one account; mixed: a read in five.
NAMES = ("read", "post", "hot", "mixed")


def make(name: str, target: Target, run: str, seed: int) -> Workload:
    """Return the workload of that name; the same seed makes the same requests."""
    requests = _Requests(target, run, seed)
    return {"read": requests.read, "post": requests.post, "hot": requests.hot, "mixed": requests.mixed}[name]


def is_write(name: str, number: int) -> bool:
    """Whether that request of the workload is a transfer."""
    return name in ("post", "hot") or (name == "mixed" and number % 5 != 0)
