"""One scenario from its plan to its findings."""

import json
import shutil
import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from loadtests.client import Client, ClientError
from loadtests.history.recorder import Recorder
from loadtests.history.verdict import CHECKS, SHOWN_MAX, Verdict
from loadtests.kit.catalogue import FLOOD, FLOOD_LIMIT, PERCENTILES, SCENARIOS, Finding, judge
from loadtests.kit.limiter import ask_limit, probe
from loadtests.kit.plan import Limit, Plan
from loadtests.kit.process import run_locust
from loadtests.kit.promises import verify
from loadtests.payers import BULK, CURRENCY, body_of
from loadtests.screen import Screen
from loadtests.servers import PLENTY, Server

# Of each scenario when nothing else is asked for: long enough for every check to have something to judge.
SECONDS = 8.0
# Of a soak and of a search for the knee.
LONG_SECONDS = {"soak": 600.0, "knee": 80.0}
# Accounts or transfers of one request before a run: well below the contract's 1,000.
ITEMS_MAX = 500
# Minor units on every account before the run: far more than it can spend, so that refusals are those asked for.
OPENING_BALANCE = 1_000_000_000


class Place(NamedTuple):
    """Where runs are made: a server of one's own, with a ledger for every scenario, or one that has given us a key."""

    url: str
    server: Server | None
    key: str = ""

    async def keys(self, scenario: str) -> tuple[str, str]:
        """Return the key of the users of a scenario, and the one that prepares and verifies."""
        if self.server is None:
            return self.key, self.key
        own = await self.server.create_key(scenario)
        if scenario != "flood":
            return own, own
        # A flood is sent with one that has a limit worth the name.
        limits = ("--rate", f"{FLOOD_LIMIT.quota}/s", "--burst", str(FLOOD_LIMIT.burst), *PLENTY[4:])
        return await self.server.create_key(scenario, limits), own

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

    def lines(self) -> list[str]:
        """Return what is to be said about it: its figures, and plainly what was missed."""
        figures, verdict = self.figures, self.verdict
        judged = ", ".join(f"{name} {verdict.judged[name]:,}" for name in CHECKS if verdict.judged[name])
        latencies = ", ".join(f"{name.removesuffix('_ms')} {figures[name]:g}" for name in PERCENTILES)
        word = "good" if self.good else "FAILED"
        counts = f"{figures['requests']:,} requests, {figures['failures']:,} failed, {figures['lies']:g} lies"
        text = [f"{self.plan.scenario}: {word}: {counts}, {latencies} ms", f"  judged: {judged}"]
        text += [f"  missed: {finding}" for finding in self.findings if not finding.met]
        text += [f"  {violation.check}: {violation.what}" for violation in verdict.violations[:SHOWN_MAX]]
        audit = "not run; run `tallystick audit` where the database is" if self.audit is None else self.audit[1]
        text.append(f"  audit: {audit}")
        path = Path(self.plan.folder) / "knee.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            tried = ", ".join(f"{step['users']} users {step['rate']:,.0f}/s" for step in found["steps"])
            knee = "{users} users, {rate:,.0f} requests/s, p95 {p95_ms:g} ms".format(**found["knee"])
            text.append(f"  knee: {knee} (tried: {tried})")
        return text

    def write(self) -> list[str]:
        """Write the findings beside locust's own report; return what is to be said."""
        folder, lines = Path(self.plan.folder), self.lines()
        document = {
            "good": self.good,
            "figures": self.figures,
            "objectives": [{**finding._asdict(), "met": finding.met} for finding in self.findings],
            "judged": self.verdict.judged,
            "lies": [violation._asdict() for violation in self.verdict.violations],
            "audit": self.audit,
        }
        (folder / "verdict.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        (folder / "verdict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return lines


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
    key, own = await place.keys(name)
    async with Client(place.url, key) as users, Client(place.url, own) as client:
        limit = await ask_limit(users)
        if name == "flood" and limit is None:
            raise ClientError("a flood needs a key with a limit, and this server tells none")
        if limit is not None and asked.burst is not None:
            limit = limit._replace(burst=asked.burst)
        plan = _plan(name, place.url, asked, limit)
        if limit is not None and name != "flood" and plan.users * plan.pace > limit.rate:
            screen.say(f"the key's limit of {limit.rate:g}/s is below the {plan.users * plan.pace:g}/s asked for")
        _fresh(Path(plan.folder))
        plan.write(Path(plan.folder) / "plan.json")
        await prepare(client, plan, limit if own == key else None)
        await run_locust(plan, key, asked.processes, asked.ui, screen)
        screen.progress("checking what every user was promised")
        figures: dict[str, float] = json.loads((Path(plan.folder) / "figures.json").read_text(encoding="utf-8"))
        if name == "flood":
            figures |= await probe(users)
        verdict, found = await verify(plan, client)
    figures |= found
    findings = judge(name, plan.shape, asked.bars, figures)
    return Outcome(plan, figures, findings, verdict, await place.audit())


def _plan(name: str, url: str, asked: Namespace, limit: Limit | None) -> Plan:
    scenario = SCENARIOS[name]
    users = asked.users or scenario.users
    # Who looks for the knee leaves no pauses; a flood is measured by the limit.
    usual = FLOOD * limit.rate / users if name == "flood" and limit is not None else scenario.pace
    return Plan(
        scenario=name,
        url=url,
        run=uuid.uuid4().hex[:10],
        users=users,
        pace=asked.pace if asked.pace is not None else 0.0 if asked.shape == "knee" else usual,
        seconds=asked.seconds or LONG_SECONDS.get(asked.shape, SECONDS),
        shape=asked.shape,
        seed=asked.seed,
        size=scenario.accounts,
        folder=str((asked.reports / name).resolve()),
        limit=limit,
    )


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


async def prepare(client: Client, plan: Plan, limit: Limit | None) -> None:
    """
    Open the accounts of a run and fill them over HTTP like anybody's; what moves money is in the history.

    Raises:
        ClientError: An account could not be opened or filled.
    """
    # An item costs a token, and more of them at once than the bucket holds are never let through.
    size = ITEMS_MAX if limit is None else max(1, min(ITEMS_MAX, limit.burst))
    accounts = plan.accounts
    await client.open_accounts([plan.world], CURRENCY)
    await client.open_accounts(accounts, CURRENCY, floor=0, size=size)
    with Recorder(Path(plan.folder) / "history-prepare.jsonl") as recorder:
        for start in range(0, len(accounts), size):
            some = accounts[start : start + size]
            keys = {f"{plan.run}-open-{start + number}": name for number, name in enumerate(some)}
            items = [(key, body_of(key, (plan.world, name), OPENING_BALANCE)) for key, name in keys.items()]
            numbers = recorder.invoke_bulk(items, process="prepare", path=BULK, atomic=False)
            sent = {"transfers": [{"key": key, **json.loads(body)} for key, body in items]}
            answer = await client.call("POST", BULK, sent, items=some)
            recorder.answered_bulk(numbers, answer.status, answer.body.decode())
