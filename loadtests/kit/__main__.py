"""
`make load`: virtual users against a server of its own, one scenario after the other, each judged when it is over.

With --host it is your own server, with an API key of the role write in LEDGER_LOAD_KEY.

Exit codes: 0 every objective was met, 1 one was missed or a promise was broken, 2 it could not be run, 130 interrupted.
"""

import argparse
import asyncio
import json
import math
import os
import shutil
import signal
import sys
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from loadtests.books import open_books, patient
from loadtests.client import Client
from loadtests.errors import FAILED, GOOD, NotRunError
from loadtests.history.model import SHOWN_MAX
from loadtests.history.recorder import Recorder
from loadtests.kit.catalogue import FLOOD, FLOOD_LIMIT, OBJECTIVES, PERCENTILES, SCENARIOS, SHAPES, Finding, judge
from loadtests.kit.plan import KEY_VARIABLE, PLAN_VARIABLE, Limit, Plan
from loadtests.kit.promises import ask_limit, probe, verify
from loadtests.processes import HOST, PROJECT, Program, free_port, run_program, spawn, tail
from loadtests.screen import Screen
from loadtests.servers import PLENTY, WARM_UP_SECONDS, Server, own_server

UI_PORT = 8089
# Locust has its own environment: gevent must not be mixed with the service or with asyncio code.
PYTHON = PROJECT / ".venv-load" / "bin" / "python"
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# Seconds beside those of the run: workers start and connect, users finish their acts.
MARGIN_SECONDS = 90.0
# Seconds for users to finish their acts; one request may take 30.
FINISH_SECONDS = 45
# Seconds between the signal to end and the kill.
END_SECONDS_MAX = 60.0
# The first file in the folder of a run, by which such a folder is recognized.
PREPARED = "history-prepare.jsonl"
# Default seconds of each scenario: long enough for every check to have something to judge.
SECONDS = 8.0
# Default seconds of a soak and of a search for the knee.
LONG_SECONDS = {"soak": 600.0, "knee": 80.0}
# Minor units on every account before the run: far more than it can spend, so that only intended refusals happen.
OPENING_BALANCE = 1_000_000_000


async def _keys(scenario: str, server: Server | None) -> tuple[str, str]:
    """Return the key for the users of a scenario, and the one that prepares and verifies."""
    # A new server gets a ledger for every scenario; for an existing server, its owner supplies a key.
    own = await server.create_key(scenario) if server else os.environ[KEY_VARIABLE]
    if scenario != "flood" or not server:
        return own, own
    # A flood is sent with a key whose limit it exceeds.
    limits = ("--rate", f"{FLOOD_LIMIT.quota}/s", "--burst", str(FLOOD_LIMIT.burst), *PLENTY[4:])
    return await server.create_key(scenario, limits), own


async def run_scenario(name: str, server: Server | None, asked: argparse.Namespace, screen: Screen) -> dict[str, Any]:
    """Prepare a ledger, run the users on it, judge the run, and return the verdict as it is stored."""
    url: str = server.url if server else asked.host.rstrip("/")
    key, own = await _keys(name, server)
    async with patient(url, key) as user, patient(url, own) as client:
        limit = await ask_limit(user)
        plan = _plan(name, url, asked, limit)
        folder = Path(plan.folder)
        screen.say(f"{name}: {plan.users} users for {plan.seconds:g} s")
        _make_fresh(folder)
        with Recorder(folder / PREPARED) as recorder:
            await open_books(client, recorder, plan.world, plan.accounts, OPENING_BALANCE)
        await run_locust(plan, key, asked.processes, asked.ui, screen)
        screen.progress("checking what every user was promised")
        figures: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        if name == "flood":
            async with Client(url, key) as users:
                figures |= await probe(users, limit)
        verdict, found = await verify(plan, client, limit)
    figures |= found
    audit = await server.audit() if server else None
    findings = judge(name, plan.shape, dict(asked.bar), figures)
    document = {
        "good": all(finding.met for finding in findings) and not (audit and audit.code),
        "figures": figures,
        "objectives": [{**finding._asdict(), "met": finding.met} for finding in findings],
        "judged": verdict.judged,
        "lies": [violation._asdict() for violation in verdict.violations],
        "audit": audit and audit.last_line,
    }
    (folder / "verdict.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def told(name: str, verdict: dict[str, Any]) -> list[str]:
    """Return what to print about a run: its figures, and the objectives that it missed."""
    figures, word = verdict["figures"], "good" if verdict["good"] else "FAILED"
    judged = ", ".join(f"{check} {count:,}" for check, count in sorted(verdict["judged"].items()))
    latencies = ", ".join(f"{each.removesuffix('_ms')} {figures[each]:g}" for each in PERCENTILES)
    counts = f"{figures['requests']:,} requests, {figures['failures']:,} failed, {figures['lies']:g} lies"
    audit = verdict["audit"] or "not run; run `tallystick audit` where the database is"
    lines = [f"{name}: {word}: {counts}, {latencies} ms", f"  judged: {judged}"]
    missed = (Finding(*list(objective.values())[:3]) for objective in verdict["objectives"] if not objective["met"])
    lines += [f"  missed: {finding}" for finding in missed]
    lines += [f"  {lie['check']}: {lie['what']}" for lie in verdict["lies"][:SHOWN_MAX]]
    lines.append(f"  audit: {audit}")
    if "knee" in figures:
        tried = ", ".join(f"{users} users {rate:,.0f}/s" for users, rate, _ in figures["steps"])
        users, rate, p95_ms = figures["knee"]
        lines.append(f"  knee: {users} users, {rate:,.0f} requests/s, p95 {p95_ms:g} ms (tried: {tried})")
    return lines


def _plan(name: str, url: str, asked: argparse.Namespace, limit: Limit) -> Plan:
    scenario = SCENARIOS[name]
    users = asked.users or scenario.users
    # Users of a knee search do not pause; the pace of a flood is a multiple of the limit.
    usual = FLOOD * limit.rate / users if name == "flood" else scenario.pace
    return Plan(
        scenario=name,
        url=url,
        run=uuid.uuid4().hex[:10],
        users=users,
        pace=0.0 if asked.shape == "knee" else usual,
        seconds=asked.seconds or LONG_SECONDS.get(asked.shape, SECONDS),
        shape=asked.shape,
        seed=asked.seed,
        size=scenario.accounts,
        folder=str((asked.reports / name).resolve()),
    )


def command(plan: Plan, processes: int, ui_port: int | None) -> list[str]:
    """Return the command that starts locust: in one process, or as this many workers and a master."""
    folder = Path(plan.folder)
    words = [str(PYTHON), "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", plan.url]
    words += ["--csv", str(folder / "stats"), "--csv-full-history", "--html", str(folder / "report.html")]
    words += ["--stop-timeout", str(FINISH_SECONDS), "--only-summary"]
    if ui_port is None:
        words.append("--headless")
    else:
        words += ["--autostart", "--web-host", HOST, "--web-port", str(ui_port)]
    if processes > 1:
        # The workers get a free port, so that two load tests on one machine do not mix.
        port = str(free_port())
        words += ["--processes", str(processes), "--master-bind-host", HOST]
        words += ["--master-bind-port", port, "--master-port", port]
    return words


async def run_locust(plan: Plan, key: str, processes: int, ui_port: int | None, screen: Screen) -> None:
    """Run the users of a plan until their time is over; with a web UI, until the program is interrupted."""
    folder = Path(plan.folder)
    variables = {PLAN_VARIABLE: json.dumps(plan), KEY_VARIABLE: key, "PYTHONPATH": str(PROJECT)}
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
        # After SIGTERM, locust would write no report.
        await locust.end(signal.SIGINT, END_SECONDS_MAX)
    finally:
        await locust.end(signal.SIGINT, 0.0)
    if locust.code != 0 or not (folder / "figures.json").exists():
        raise NotRunError(f"locust failed (exit {locust.code}; -9: it did not end):\n{tail(folder / 'console.log')}")


def _make_fresh(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / PREPARED).exists():
            raise NotRunError(f"{folder} holds something else than the report of a run; it is left alone")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def main(words: list[str] | None = None) -> int:
    parser = _parser()
    asked = parser.parse_args(words)
    # With --host there is one key for all scenarios, and its limit is too high for this flood to reach.
    usual = [name for name in SCENARIOS if name != "flood" or not asked.host]
    names = [name for listed in asked.scenario for name in listed.split(",")] or usual
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario is called {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if asked.host and not os.environ.get(KEY_VARIABLE):
        parser.error(f"--host needs an API key of the role write in the environment: {KEY_VARIABLE}")
    if asked.ui is not None and len(names) > 1:
        parser.error("--ui shows one scenario; name it with --scenario")
    return run_program("load", _run(names, asked, Screen()))


async def _run(names: list[str], asked: argparse.Namespace, screen: Screen) -> int:
    failed = []
    if not asked.host:
        screen.say("starting a server of its own")
    async with nullcontext() if asked.host else own_server() as server:
        if server and asked.warm_up:
            screen.say(f"warming up for {asked.warm_up:g} s: until then the cache is not read from")
            await server.warm(await server.create_key("reads"), asked.warm_up)
        for name in names:
            verdict = await run_scenario(name, server, asked, screen)
            screen.say("\n".join(told(name, verdict)))
            if not verdict["good"]:
                failed.append(name)
    screen.say(f"{len(names) - len(failed)} of {len(names)} scenarios are good; reports are in {asked.reports}/")
    if failed:
        screen.say(f"missed: {', '.join(failed)}")
    return FAILED if failed else GOOD


def _bar(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in OBJECTIVES:
        raise argparse.ArgumentTypeError(f"no objective is called {name}; there are {', '.join(OBJECTIVES)}")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is NAME=NUMBER, not {text}") from None


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<12} {scenario.summary}" for name, scenario in SCENARIOS.items())
    shapes = "\n".join(f"  {name:<12} {summary}" for name, summary in SHAPES.items())
    parser = argparse.ArgumentParser(
        prog="make load",
        usage='make load [ARGS="OPTIONS"]',
        description=__doc__,
        epilog=f"scenarios:\n{listed}\n\nshapes:\n{shapes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    some = "one or more, by commas; without it, all, but no flood with --host"
    add("--scenario", action="append", default=[], metavar="NAME", help=some)
    add("--host", metavar="URL", help=f"your server; its key comes in {KEY_VARIABLE}")
    add("--users", type=int, help="at once, at most")
    add("--seconds", type=float, help="of each scenario")
    add("--shape", choices=SHAPES, default="steady")
    add("--processes", type=int, default=1, help="that the users are spread over; one uses one core")
    add("--ui", type=int, nargs="?", const=UI_PORT, metavar="PORT", help=f"locust's web UI on this machine ({UI_PORT})")
    add("--bar", action="append", type=_bar, default=[], metavar="NAME=NUMBER", help="another bar: p99_ms=200")
    add("--seed", type=int, default=1, help="of what the users choose")
    add("--warm-up", type=float, default=WARM_UP_SECONDS, help="seconds, of a server of its own")
    add("--reports", type=Path, default=PROJECT / "reports", help="folder, one in it for each scenario")
    return parser


if __name__ == "__main__":
    sys.exit(main())
