"""What one run is to be: made once, and read by every process of it."""

import json
from typing import NamedTuple

# Names of the environment: the plan, and the API key, which is never written to a file.
PLAN_VARIABLE = "TALLYSTICK_LOAD_PLAN"
KEY_VARIABLE = "LEDGER_LOAD_KEY"


class Limit(NamedTuple):
    """The limit of an API key: *quota* requests every *window* seconds, and up to *burst* at once."""

    quota: int
    window: int
    burst: int

    @property
    def rate(self) -> float:
        return self.quota / self.window


class Plan(NamedTuple):
    """
    One run of one scenario.

    `pace` is what one user starts a second; 0 is as fast as answers come. `run` begins all names that the run uses.
    `limit` is that of the key, where the scenario is about it.
    """

    scenario: str
    url: str
    run: str
    users: int
    pace: float
    seconds: float
    shape: str
    seed: int
    size: int
    folder: str
    limit: Limit | None = None

    @property
    def prefix(self) -> str:
        """What the ids of all accounts of the run begin with."""
        return f"load:{self.run}:"

    @property
    def world(self) -> str:
        """The account that may go below zero, out of which the others were filled."""
        return f"{self.prefix}world"

    @property
    def accounts(self) -> list[str]:
        """The others: as many as its size says, the busiest first."""
        return [f"{self.prefix}{number}" for number in range(self.size)]

    def told(self) -> str:
        return json.dumps(self)


def read(text: str) -> Plan:
    plan = Plan(*json.loads(text))
    return plan._replace(limit=Limit(*plan.limit) if plan.limit else None)
