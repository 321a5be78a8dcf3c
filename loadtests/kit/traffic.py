"""Which accounts and amounts a user picks; the same seed picks the same."""

import bisect
import itertools
import json
import random

from loadtests.kit.plan import CURRENCY, Plan

# Exponent of Zipf's law: a few accounts get most of the requests.
ZIPF = 1.1
AMOUNT_MAX = 500


class Traffic:
    """The choices of one user."""

    def __init__(self, plan: Plan, user: str) -> None:
        self.random = random.Random(f"{plan.seed}:{plan.scenario}:{user}")
        self._plan = plan
        self._weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, plan.accounts + 1)))

    def busy_account(self) -> str:
        """Return an account, the first ones most often."""
        rank = bisect.bisect(self._weights, self.random.random() * self._weights[-1])
        return self._plan.account(min(rank, self._plan.accounts - 1))

    def pair(self) -> tuple[str, str]:
        """Return two different accounts."""
        source, destination = self.random.sample(range(self._plan.accounts), 2)
        return self._plan.account(source), self._plan.account(destination)

    def hot_pair(self) -> tuple[str, str]:
        """Return the first account and another one, either way round."""
        pair = [self._plan.account(0), self._plan.account(self.random.randrange(1, self._plan.accounts))]
        self.random.shuffle(pair)
        return pair[0], pair[1]

    def cold_pair(self) -> tuple[str, str]:
        """Return two different accounts, neither of them the first."""
        source, destination = self.random.sample(range(1, self._plan.accounts), 2)
        return self._plan.account(source), self._plan.account(destination)

    def amount(self) -> int:
        """Return a small amount in minor units."""
        return self.random.randint(1, AMOUNT_MAX)

    def one_in(self, number: int) -> bool:
        """Tell, once in so many times, yes."""
        return self.random.randrange(number) == 0


def transfer(source: str, destination: str, amount: int, key: str) -> dict[str, object]:
    """Return a transfer's fields; its reference is its key, so that statements show which key moved the money."""
    return {
        "source": source,
        "destination": destination,
        "amount": amount,
        "currency": CURRENCY,
        "reference": key,
    }


def body_of(fields: dict[str, object]) -> str:
    """Return the bytes that are sent, as text."""
    return json.dumps(fields, separators=(",", ":"))
