"""One scenario from its plan to its findings."""

import json
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from loadtests.history.api import Api, ApiError
from loadtests.history.verdict import Verdict
from loadtests.kit.catalogue import FLOOD, SCENARIOS
from loadtests.kit.limiter import probe
from loadtests.kit.objectives import Finding, judge, objectives
from loadtests.kit.plan import Limit, Plan
from loadtests.kit.prepare import ask_limit, prepare
from loadtests.kit.process import run_locust
from loadtests.kit.promises import verify
from loadtests.kit.screen import Screen

# Seconds between two reads of a cache that warms up.
WARM_PAUSE_SECONDS = 0.2


class Keys(NamedTuple):
    """What a run is made with: the key of the users, the one that prepares and verifies, and the users' limit."""

    users: str
    own: str
    limit: Limit | None


class Place(Protocol):
    """Where runs are made."""

    url: str

    def keys(self, scenario: str) -> Keys:
        """Return the keys for a run of a scenario."""

    def audit(self) -> tuple[bool, str] | None:
        """Return whether the books are right and what was said about them; None where nobody can be asked."""


class Wishes(NamedTuple):
    """What was asked for; None and 0 are what the scenario usually has."""

    users: int | None
    pace: float | None
    seconds: float
    shape: str
    seed: int
    processes: int
    ui_port: int | None
    burst: int | None
    bars: Mapping[str, float]
    reports: Path


class Outcome(NamedTuple):
    """What a run came to."""

    plan: Plan
    figures: Mapping[str, float]
    findings: list[Finding]
    verdict: Verdict
    audit: tuple[bool, str] | None

    @property
    def good(self) -> bool:
        """Whether every objective was met and the books are right."""
        return all(finding.met for finding in self.findings) and (self.audit is None or self.audit[0])


def run_scenario(name: str, place: Place, wishes: Wishes, screen: Screen) -> Outcome:
    """
    Prepare a ledger, let the users loose on it, and judge.

    Raises:
        ApiError: The server cannot be used for it.
        LocustError: Locust failed.
        HistoryError: What it wrote down is damaged.
    """
    keys = place.keys(name)
    limit = keys.limit
    if limit is None:
        with Api(place.url, keys.users) as api:
            limit = ask_limit(api)
    if name == "flood" and limit is None:
        raise ApiError("a flood needs a key with a limit, and this server tells none")
    if limit is not None and wishes.burst is not None:
        limit = limit._replace(burst=wishes.burst)
    plan = _plan(name, place.url, wishes, limit)
    _note_low_limit(plan, screen)
    _fresh(Path(plan.folder))
    plan.write(Path(plan.folder) / "plan.json")
    with Api(place.url, keys.own) as api:
        prepare(api, plan, None if keys.limit else limit)
    run_locust(plan, keys.users, wishes.processes, wishes.ui_port, screen)
    screen.progress("checking what every user was promised")
    figures: dict[str, float] = json.loads((Path(plan.folder) / "figures.json").read_text(encoding="utf-8"))
    # New connections: no server keeps an idle one for as long as a run may take.
    if name == "flood":
        with Api(place.url, keys.users) as api:
            figures.update(probe(api))
    with Api(place.url, keys.own) as api:
        verdict, found = verify(plan, api)
        figures.update(found)
    audit = place.audit()
    findings = judge(objectives(name, plan.shape, wishes.bars), figures)
    return Outcome(plan, figures, findings, verdict, audit)


def _plan(name: str, url: str, wishes: Wishes, limit: Limit | None) -> Plan:
    scenario = SCENARIOS[name]
    users = wishes.users or scenario.users
    pace = wishes.pace
    if pace is None:
        # Who looks for the knee leaves no pauses; a flood is measured by the limit.
        pace = 0.0 if wishes.shape == "knee" else scenario.pace
        if name == "flood" and limit is not None:
            pace = FLOOD * limit.rate / users
    return Plan(
        scenario=name,
        url=url,
        run=uuid.uuid4().hex[:10],
        users=users,
        pace=pace,
        seconds=wishes.seconds,
        shape=wishes.shape,
        seed=wishes.seed,
        accounts=scenario.accounts,
        folder=str((wishes.reports / name).resolve()),
        limit=limit,
    )


def _note_low_limit(plan: Plan, screen: Screen) -> None:
    if plan.scenario != "flood" and plan.limit is not None and plan.users * plan.pace > plan.limit.rate:
        screen.say(f"the key's limit of {plan.limit.rate:g}/s is below the {plan.users * plan.pace:g}/s asked for")


def _fresh(folder: Path) -> None:
    """
    Make the folder of a run, in place of that of an earlier run.

    Raises:
        ApiError: Something else is there.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "plan.json").exists():
            raise ApiError(f"{folder} holds something else than the report of a run; it is left alone")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def warm_up(place: Place, seconds: float) -> None:
    """
    Read now and then until the cache of a server just started is read from.

    Raises:
        ApiError: There was no answer.
    """
    with Api(place.url, place.keys("reads").own) as api:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            api.get("/v1/accounts?limit=1")
            time.sleep(min(WARM_PAUSE_SECONDS, max(0.0, until - time.monotonic())))
