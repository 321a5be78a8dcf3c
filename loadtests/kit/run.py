"""One scenario from its plan to its findings."""

import json
import shutil
import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from loadtests.client import Client, ClientError
from loadtests.history.verdict import Verdict
from loadtests.kit.catalogue import FLOOD, FLOOD_LIMIT, SCENARIOS, Finding, judge
from loadtests.kit.limiter import probe
from loadtests.kit.plan import Limit, Plan
from loadtests.kit.prepare import ask_limit, prepare
from loadtests.kit.process import run_locust
from loadtests.kit.promises import verify
from loadtests.screen import Screen
from loadtests.servers import PLENTY, Server

# Of each scenario when nothing else is asked for: long enough for every check to have something to judge.
SECONDS = 8.0
# Of a soak and of a search for the knee.
LONG_SECONDS = {"soak": 600.0, "knee": 80.0}


class Keys(NamedTuple):
    """What a run is made with: the key of the users, the one that prepares and verifies, and the users' limit."""

    users: str
    own: str
    limit: Limit | None


class Place(NamedTuple):
    """Where runs are made: a server of one's own, with a ledger for every scenario, or one that has given us a key."""

    url: str
    server: Server | None
    key: str = ""

    async def keys(self, scenario: str) -> Keys:
        """Return the keys for a run of a scenario; a flood is sent with one that has a limit worth the name."""
        if self.server is None:
            return Keys(self.key, self.key, None)
        own = await self.server.create_key(scenario)
        if scenario != "flood":
            return Keys(own, own, None)
        quota, _, burst = FLOOD_LIMIT
        limits = ("--rate", f"{quota}/s", "--burst", str(burst), *PLENTY[4:])
        return Keys(await self.server.create_key(scenario, limits), own, FLOOD_LIMIT)

    async def audit(self) -> tuple[bool, str] | None:
        """Return whether the books are right and what was said about them; None where nobody can be asked."""
        if self.server is None:
            return None
        done = await self.server.audit()
        return done.code == 0, done.last_line


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


async def run_scenario(name: str, place: Place, asked: Namespace, screen: Screen) -> Outcome:
    """
    Prepare a ledger, let the users loose on it, and judge.

    Args:
        asked: The options of the command line; None is what the scenario usually has.

    Raises:
        ClientError: The server cannot be used for it.
        ServerError: Locust failed.
        HistoryError: What it wrote down is damaged.
    """
    keys = await place.keys(name)
    limit = keys.limit
    if limit is None:
        async with Client(place.url, keys.users) as client:
            limit = await ask_limit(client)
    if name == "flood" and limit is None:
        raise ClientError("a flood needs a key with a limit, and this server tells none")
    if limit is not None and asked.burst is not None:
        limit = limit._replace(burst=asked.burst)
    plan = _plan(name, place.url, asked, limit)
    _note_low_limit(plan, screen)
    _fresh(Path(plan.folder))
    plan.write(Path(plan.folder) / "plan.json")
    async with Client(place.url, keys.own) as client:
        await prepare(client, plan, None if keys.limit else limit)
    await run_locust(plan, keys.users, asked.processes, asked.ui, screen)
    screen.progress("checking what every user was promised")
    figures: dict[str, float] = json.loads((Path(plan.folder) / "figures.json").read_text(encoding="utf-8"))
    if name == "flood":
        async with Client(place.url, keys.users) as client:
            figures.update(await probe(client))
    async with Client(place.url, keys.own) as client:
        verdict, found = await verify(plan, client)
        figures.update(found)
    audit = await place.audit()
    findings = judge(name, plan.shape, asked.bars, figures)
    return Outcome(plan, figures, findings, verdict, audit)


def _plan(name: str, url: str, asked: Namespace, limit: Limit | None) -> Plan:
    scenario = SCENARIOS[name]
    users = asked.users or scenario.users
    pace = asked.pace
    if pace is None:
        # Who looks for the knee leaves no pauses; a flood is measured by the limit.
        pace = 0.0 if asked.shape == "knee" else scenario.pace
        if name == "flood" and limit is not None:
            pace = FLOOD * limit.rate / users
    return Plan(
        scenario=name,
        url=url,
        run=uuid.uuid4().hex[:10],
        users=users,
        pace=pace,
        seconds=asked.seconds or LONG_SECONDS.get(asked.shape, SECONDS),
        shape=asked.shape,
        seed=asked.seed,
        accounts=scenario.accounts,
        folder=str((asked.reports / name).resolve()),
        limit=limit,
    )


def _note_low_limit(plan: Plan, screen: Screen) -> None:
    if plan.scenario != "flood" and plan.limit is not None and plan.users * plan.pace > plan.limit.rate:
        screen.say(f"the key's limit of {plan.limit.rate:g}/s is below the {plan.users * plan.pace:g}/s asked for")


def _fresh(folder: Path) -> None:
    """
    Make the folder of a run, in place of that of an earlier run.

    Raises:
        ClientError: Something else is there.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "plan.json").exists():
            raise ClientError(f"{folder} holds something else than the report of a run; it is left alone")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
