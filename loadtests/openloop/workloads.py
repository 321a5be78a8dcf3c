"""The requests of a run, as bytes: what can be made beforehand is, the others when they are due."""

import json
import random
from collections.abc import Callable
from typing import NamedTuple

from loadtests.client import Address

# Keys that are asked for again and again by `replay`.
REPLAYED_KEYS = 2_000
# Transfers of one bulk: half of what one may have.
BULK_TRANSFERS = 500
# The first part of the accounts' ids.
PREFIX = "load"


class Target(NamedTuple):
    """
    Where requests go: all ledgers have the same accounts.

    Each of the first `ledgers` API keys opens another one, and so do the next ones again; 0 is a ledger for each key.
    """

    host: str
    port: int
    keys: list[str]
    accounts: list[str]
    ledgers: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{Address(self.host, self.port).host_header}"


class Requests(NamedTuple):
    """
    What a run sends.

    `first` is sent before the run, so that there is something to ask for again, and caches are as full as they get.
    `make` makes a request by its number and the number of its key.
    """

    first: list[bytes]
    make: Callable[[int, int], bytes]


def key_of(run: str, number: int) -> str:
    """Return the idempotency key of a request."""
    return f"{run}-{number}"


def requests_of(workload: str, target: Target, run: str, seed: int) -> Requests:
    """
    Return the requests of a workload; the same seed makes the same ones.

    Args:
        workload: Its name, one of `_MAKERS`.

        run: No two runs of different names share an idempotency key.
    """
    return _MAKERS[workload](_Source(target, run, seed))


def is_write(workload: str, number: int) -> bool:
    """Return whether that request of a workload is a first post."""
    return workload in ("post", "hot") or (workload == "mixed" and number % 5 != 0)


class _Source:
    def __init__(self, target: Target, run: str, seed: int) -> None:
        self.target = target
        self.run = run
        self.random = random.Random(seed)

    def rests(self, more: str = "") -> list[str]:
        """Return what follows the first line of a request, for each key."""
        host = Address(self.target.host, self.target.port).host_header
        return [f"Host: {host}\r\n{more}Authorization: Bearer {key}\r\n" for key in self.target.keys]

    def posts(self, path: str) -> list[str]:
        rests = self.rests("Content-Type: application/json\r\n")
        return [f"POST {path} HTTP/1.1\r\n{rest}" for rest in rests]

    def pair(self) -> tuple[str, str]:
        accounts, choice = self.target.accounts, self.random.random
        source = int(choice() * len(accounts))
        step = 1 + int(choice() * (len(accounts) - 1))
        return accounts[source], accounts[(source + step) % len(accounts)]

    def other(self) -> str:
        accounts = self.target.accounts
        return accounts[1 + int(self.random.random() * (len(accounts) - 1))]


def _bare(source: _Source) -> Requests:
    request = f"GET / HTTP/1.1\r\n{source.rests()[0]}\r\n".encode()
    return Requests([], lambda _number, _key: request)


def _gets(source: _Source, path: str) -> Requests:
    choice, keys = source.random.random, source.target.keys
    lines = [f"GET {path.format(name)} HTTP/1.1\r\n".encode() for name in source.target.accounts]
    rests = [f"{rest}\r\n".encode() for rest in source.rests()]
    # Each once beforehand: what is measured finds in a cache what can be there. Keys too are looked up beforehand.
    ledgers = source.target.ledgers or len(keys)
    first = [line + rest for rest in rests[:ledgers] for line in lines]
    first += [lines[0] + rest for rest in rests[ledgers:]]
    return Requests(first, lambda _number, key: lines[int(choice() * len(lines))] + rests[key])


def _read(source: _Source) -> Requests:
    return _gets(source, "/v1/accounts/{}")


def _statement(source: _Source) -> Requests:
    return _gets(source, "/v1/accounts/{}/entries?limit=20")


def _transfer(head: str, key: str, source: str, destination: str) -> bytes:
    body = f'{{"source":"{source}","destination":"{destination}","amount":1,"currency":"EUR"}}'
    return f"{head}Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _post(source: _Source) -> Requests:
    heads, run = source.posts("/v1/transfers"), source.run
    return Requests([], lambda number, key: _transfer(heads[key], key_of(run, number), *source.pair()))


def _hot(source: _Source) -> Requests:
    heads, run, hot = source.posts("/v1/transfers"), source.run, source.target.accounts[0]
    return Requests([], lambda number, key: _transfer(heads[key], key_of(run, number), hot, source.other()))


def _mixed(source: _Source) -> Requests:
    read, post = _read(source).make, _post(source).make
    return Requests([], lambda number, key: post(number, key) if number % 5 else read(number, key))


def _replay(source: _Source) -> Requests:
    head, choice = source.posts("/v1/transfers")[0], source.random.random
    first = [_transfer(head, key_of(source.run, number), *source.pair()) for number in range(REPLAYED_KEYS)]
    return Requests(first, lambda _number, _key: first[int(choice() * REPLAYED_KEYS)])


def _bulk(source: _Source) -> Requests:
    heads = source.posts("/v1/transfers/bulk")

    def make(number: int, key: int) -> bytes:
        items = []
        for item in range(BULK_TRANSFERS):
            giver, taker = source.pair()
            fields = {"source": giver, "destination": taker, "amount": 1, "currency": "EUR"}
            items.append({"key": f"{key_of(source.run, number)}-{item}", **fields})
        body = json.dumps({"transfers": items}, separators=(",", ":"))
        return f"{heads[key]}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    return Requests([], make)


_MAKERS: dict[str, Callable[[_Source], Requests]] = {
    "bare": _bare,  # a server that answers everything with the same bytes
    "read": _read,  # one account
    "statement": _statement,  # its newest entries
    "replay": _replay,  # transfers that have been posted before
    "post": _post,  # transfers between two accounts
    "hot": _hot,  # transfers from one account
    "mixed": _mixed,  # a read in five, the others posts
    "bulk": _bulk,  # many transfers a request
}
# Those that a load at a fixed rate can be made of.
NAMES = ("read", "post", "hot", "mixed")
