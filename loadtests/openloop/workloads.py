"""Makes the requests of a run as bytes: beforehand where possible, otherwise when they are due."""

import json
import random
from collections.abc import Callable
from typing import NamedTuple

from loadtests.client import address_of

# Idempotency keys that `replay` sends again and again.
REPLAYED_KEYS = 2_000
# Transfers of one bulk: half of the most that a bulk may have.
BULK_TRANSFERS = 500
# Prefix of the accounts' ids.
PREFIX = "load"
# In `mixed`, one request in this many is a read.
READ_ONE_IN = 5
# Workloads for a load at a fixed rate.
NAMES = ("read", "post", "hot", "mixed")


class Target(NamedTuple):
    """
    Where requests go. All ledgers have the same accounts.

    The API keys belong to the first `ledgers` ledgers in turn; 0 means a ledger for each key. CPU time is counted for
    the processes in `roots` and their children.
    """

    url: str
    keys: list[str]
    accounts: list[str]
    ledgers: int = 0
    roots: tuple[int, ...] = ()


def key_of(run: str, number: int) -> str:
    return f"{run}-{number}"


def is_write(workload: str, number: int) -> bool:
    return workload in ("post", "hot") or (workload == "mixed" and number % READ_ONE_IN != 0)


class Requests:
    """
    Makes the requests of a workload. The same seed makes the same requests, with the run's own idempotency keys.

    `first`: sent before the run, so that `replay` has keys to repeat and caches are full.
    `make`: makes a request from its number and the number of its API key.
    """

    def __init__(self, workload: str, target: Target, run: str, seed: int) -> None:
        self.first: list[bytes] = []
        self._run = run
        self._accounts = target.accounts
        self._random = random.Random(seed).random
        host = address_of(target.url).netloc
        self._heads = [f"Host: {host}\r\nAuthorization: Bearer {key}\r\n" for key in target.keys]
        self._ends = [f"{head}\r\n".encode() for head in self._heads]
        rest = "/entries?limit=20" if workload == "statement" else ""
        self._gets = [f"GET /v1/accounts/{name}{rest} HTTP/1.1\r\n".encode() for name in target.accounts]
        self.make: Callable[[int, int], bytes] = getattr(self, workload)
        if workload in ("read", "statement"):
            # Reads each account once, so that the measured reads find the cache full. This also looks up the keys.
            ledgers = target.ledgers or len(target.keys)
            self.first += [get + end for end in self._ends[:ledgers] for get in self._gets]
            self.first += [self._gets[0] + end for end in self._ends[ledgers:]]
        elif workload == "replay":
            self.first += [self.post(number, 0) for number in range(REPLAYED_KEYS)]

    def _pair(self) -> tuple[str, str]:
        accounts = self._accounts
        source = int(self._random() * len(accounts))
        step = 1 + int(self._random() * (len(accounts) - 1))
        return accounts[source], accounts[(source + step) % len(accounts)]

    def _posted(self, path: str, key: int, body: str, more: str = "") -> bytes:
        head = f"POST {path} HTTP/1.1\r\n{self._heads[key]}Content-Type: application/json\r\n{more}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def _transfer(self, number: int, key: int, source: str, destination: str) -> bytes:
        body = f'{{"source":"{source}","destination":"{destination}","amount":1,"currency":"EUR"}}'
        return self._posted("/v1/transfers", key, body, f"Idempotency-Key: {key_of(self._run, number)}\r\n")

    def bare(self, _number: int, key: int) -> bytes:
        return b"GET / HTTP/1.1\r\n" + self._ends[key]

    def read(self, _number: int, key: int) -> bytes:
        return self._gets[int(self._random() * len(self._gets))] + self._ends[key]

    statement = read

    def replay(self, _number: int, _key: int) -> bytes:
        return self.first[int(self._random() * len(self.first))]

    def post(self, number: int, key: int) -> bytes:
        return self._transfer(number, key, *self._pair())

    def hot(self, number: int, key: int) -> bytes:
        other = self._accounts[1 + int(self._random() * (len(self._accounts) - 1))]
        return self._transfer(number, key, self._accounts[0], other)

    def mixed(self, number: int, key: int) -> bytes:
        return self.post(number, key) if number % READ_ONE_IN else self.read(number, key)

    def bulk(self, number: int, key: int) -> bytes:
        items = []
        for item in range(BULK_TRANSFERS):
            source, destination = self._pair()
            fields = {"source": source, "destination": destination, "amount": 1, "currency": "EUR"}
            items.append({"key": f"{key_of(self._run, number)}-{item}", **fields})
        return self._posted("/v1/transfers/bulk", key, json.dumps({"transfers": items}, separators=(",", ":")))
