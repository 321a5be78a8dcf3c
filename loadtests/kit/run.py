"""One scenario from its plan to its findings."""

import asyncio
import json
import math
import os
import shutil
import signal
import sys
import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.client import Client
from loadtests.errors import NotRunError
from loadtests.history.recorder import Heard, Recorder
from loadtests.history.verdict import CHECKS, SHOWN_MAX, Verdict
from loadtests.kit.catalogue import FLOOD, FLOOD_LIMIT, PERCENTILES, SCENARIOS, Finding, judge
from loadtests.kit.plan import KEY_VARIABLE, PLAN_VARIABLE, Limit, Plan
from loadtests.kit.promises import ask_limit, probe, verify
from loadtests.payers import BULK, CURRENCY, body_of
from loadtests.processes import HOST, PROJECT, Done, Program, free_port, spawn, tail
from loadtests.screen import Screen
from loadtests.servers import PLENTY, Server

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# Seconds beside those of the run: workers start and connect, users finish what they are at.
MARGIN_SECONDS = 90.0
# Seconds that users get to finish what they are at; one request may take 30.
FINISH_SECONDS = 45
# Seconds between being told to end and being ended.
END_SECONDS_MAX = 60.0
# The first file in the folder of a run.
PREPARED = "history-prepare.jsonl"
# Users that start in a second.
SPAWN_RATE = 50
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


class Outcome(NamedTuple):
    """What a run came to: figures of locust and of the checks, and the audit where there is somebody to be asked."""

    plan: Plan
    figures: Mapping[str, Any]
    findings: list[Finding]
    verdict: Verdict
    audit: Done | None

    @property
    def good(self) -> bool:
        return all(finding.met for finding in self.findings) and (self.audit is None or self.audit.code == 0)

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
        audit = "not run; run `tallystick audit` where the database is" if self.audit is None else self.audit.last_line
        text.append(f"  audit: {audit}")
        if "knee" in figures:
            tried = ", ".join(f"{users} users {rate:,.0f}/s" for users, rate, _ in figures["steps"])
            users, rate, p95_ms = figures["knee"]
            text.append(f"  knee: {users} users, {rate:,.0f} requests/s, p95 {p95_ms:g} ms (tried: {tried})")
        return text

    def write(self) -> None:
        document = {
            "good": self.good,
            "figures": self.figures,
            "objectives": [{**finding._asdict(), "met": finding.met} for finding in self.findings],
            "judged": self.verdict.judged,
            "lies": [violation._asdict() for violation in self.verdict.violations],
            "audit": self.audit and self.audit.last_line,
        }
        path = Path(self.plan.folder) / "verdict.json"
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


async def run_scenario(name: str, place: Place, asked: Namespace, screen: Screen) -> Outcome:
    """
    Prepare a ledger, let the users loose on it, and judge.

    `asked`: the options of the command line; None is what the scenario usually has.
    """
    key, own = await place.keys(name)
    async with Client(place.url, key) as users, Client(place.url, own) as client:
        limit = await ask_limit(users)
        if name == "flood" and limit is None:
            raise NotRunError("a flood needs a key with a limit, and this server tells none")
        if limit is not None and asked.burst is not None:
            limit = limit._replace(burst=asked.burst)
        plan = _plan(name, place.url, asked, limit)
        screen.say(f"{name}: {plan.users} users for {plan.seconds:g} s")
        if limit is not None and name != "flood" and plan.users * plan.pace > limit.rate:
            screen.say(f"the key's limit of {limit.rate:g}/s is below the {plan.users * plan.pace:g}/s asked for")
        _make_fresh(Path(plan.folder))
        await prepare(client, plan, limit if own == key else None)
        await run_locust(plan, key, asked.processes, asked.ui, screen)
        screen.progress("checking what every user was promised")
        figures: dict[str, Any] = json.loads((Path(plan.folder) / "figures.json").read_text(encoding="utf-8"))
        if name == "flood":
            figures |= await probe(users)
        verdict, found = await verify(plan, client)
    figures |= found
    findings = judge(name, plan.shape, dict(asked.bar), figures)
    return Outcome(plan, figures, findings, verdict, await place.server.audit() if place.server else None)


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


def command(plan: Plan, processes: int, ui_port: int | None) -> list[str]:
    """
    Return how locust is started.

    `processes`: 1 for all users in one process, otherwise so many workers and one that collects their figures.
    `ui_port`: of the web UI on this machine; None for no UI.
    """
    folder = Path(plan.folder)
    words = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", plan.url]
    words += ["--csv", str(folder / "stats"), "--csv-full-history", "--html", str(folder / "report.html")]
    words += ["--stop-timeout", str(FINISH_SECONDS), "--only-summary"]
    if plan.shape == "steady":
        words += ["--users", str(plan.users), "--spawn-rate", str(SPAWN_RATE), "--run-time", f"{plan.seconds:g}s"]
    if ui_port is None:
        words.append("--headless")
    else:
        words += ["--autostart", "--web-host", HOST, "--web-port", str(ui_port)]
    if processes > 1:
        # A free port for the workers: two load tests on one machine must not meet.
        port = str(free_port())
        words += ["--processes", str(processes), "--master-bind-host", HOST]
        words += ["--master-bind-port", port, "--master-port", port]
    return words


async def run_locust(plan: Plan, key: str, processes: int, ui_port: int | None, screen: Screen) -> None:
    """
    Run the users of a plan; what locust says is in `console.log`.

    Without a UI it ends by itself, or is ended after a bounded time; with one, when it is interrupted.
    """
    folder = Path(plan.folder)
    variables = {PLAN_VARIABLE: plan.told(), KEY_VARIABLE: key, "PYTHONPATH": str(PROJECT)}
    locust = Program(spawn(command(plan, processes, ui_port), folder / "console.log", {**os.environ, **variables}))
    if ui_port is not None:
        screen.say(f"web UI: http://{HOST}:{ui_port}/   Ctrl-C ends the run and checks it")
    try:
        await locust.ends_within(math.inf if ui_port is not None else plan.seconds + MARGIN_SECONDS)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        screen.say("stopping; what has been promised so far is checked")
        # Not SIGTERM: locust writes no report then.
        await locust.end(signal.SIGINT, END_SECONDS_MAX)
    finally:
        await locust.end(signal.SIGINT, 0.0)
    if locust.code != 0 or not (folder / "figures.json").exists():
        raise NotRunError(f"locust failed (exit {locust.code}; -9: it did not end):\n{tail(folder / 'console.log')}")


def _make_fresh(folder: Path) -> None:
    """Make the folder of a run, in place of that of an earlier run."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / PREPARED).exists():
            raise NotRunError(f"{folder} holds something else than the report of a run; it is left alone")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


async def prepare(client: Client, plan: Plan, limit: Limit | None) -> None:
    """Open the accounts of a run and fill them over HTTP like anybody's; what moves money is in the history."""
    # An item costs a token, and more of them at once than the bucket holds are never let through.
    size = ITEMS_MAX if limit is None else max(1, min(ITEMS_MAX, limit.burst))
    accounts = plan.accounts
    await client.open_accounts([plan.world], CURRENCY)
    await client.open_accounts(accounts, CURRENCY, floor=0, size=size)
    with Recorder(Path(plan.folder) / PREPARED) as recorder:
        for start in range(0, len(accounts), size):
            some = accounts[start : start + size]
            keys = {f"{plan.run}-open-{start + number}": name for number, name in enumerate(some)}
            items = [(key, body_of(key, (plan.world, name), OPENING_BALANCE)) for key, name in keys.items()]
            numbers = recorder.invoke_bulk(items, process="prepare", path=BULK, atomic=False)
            sent = {"transfers": [{"key": key, **json.loads(body)} for key, body in items]}
            answer = await client.call("POST", BULK, sent, items=some)
            recorder.answered_bulk(numbers, Heard.of(answer.status, answer.body.decode()))
