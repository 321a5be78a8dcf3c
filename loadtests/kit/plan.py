"""What one run is to be: made once, and read by every process of it."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

# Names of the environment: where the plan is, and the API key, which is never written to a file.
PLAN_VARIABLE = "TALLYSTICK_LOAD_PLAN"
KEY_VARIABLE = "LEDGER_LOAD_KEY"


class Limit(NamedTuple):
    """The limit of an API key: *quota* requests every *window* seconds, and up to *burst* at once."""

    quota: int
    window: int
    burst: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.quota / self.window


@dataclass(frozen=True, slots=True)
class Plan:
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

    def write(self, path: Path) -> None:
        """Write it for `read`."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Plan:
    """Return the plan in a file."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    limit = fields.pop("limit")
    return Plan(**fields, limit=None if limit is None else Limit(*limit))


def from_environment() -> Plan:
    """
    Return the plan that the starting process has named.

    Raises:
        RuntimeError: It has named none: locust was started by hand.
    """
    path = os.environ.get(PLAN_VARIABLE)
    if path is None or KEY_VARIABLE not in os.environ:
        raise RuntimeError(f"start the load test with `make load`; {PLAN_VARIABLE} and {KEY_VARIABLE} are not set")
    return read(Path(path))
