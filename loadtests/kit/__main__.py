"""
`make load`: virtual users against a server of its own, one scenario after the other, each judged when it is over.

With --host it is your own server, with an API key of the role write in LEDGER_LOAD_KEY.

Exit codes: 0 every objective was met, 1 one was missed or a promise was broken, 2 it could not be run, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.errors import FAILED, GOOD
from loadtests.kit.catalogue import MEANINGS, SCENARIOS, SHAPES
from loadtests.kit.plan import KEY_VARIABLE
from loadtests.kit.run import Place, run_scenario
from loadtests.processes import PROJECT, run_program
from loadtests.screen import Screen
from loadtests.servers import WARM_UP_SECONDS, own_server

UI_PORT = 8089


def main(words: list[str] | None = None) -> int:
    parser = _parser()
    asked = parser.parse_args(words)
    # A key that the other scenarios do well with has a limit that no flood here would reach.
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
    async with _place(asked, screen) as place:
        for name in names:
            outcome = await run_scenario(name, place, asked, screen)
            outcome.write()
            for line in outcome.lines():
                screen.say(line)
            if not outcome.good:
                failed.append(name)
    screen.say(f"{len(names) - len(failed)} of {len(names)} scenarios are good; reports are in {asked.reports}/")
    if failed:
        screen.say(f"missed: {', '.join(failed)}")
    return FAILED if failed else GOOD


@asynccontextmanager
async def _place(asked: argparse.Namespace, screen: Screen) -> AsyncIterator[Place]:
    if asked.host:
        yield Place(asked.host.rstrip("/"), None, os.environ[KEY_VARIABLE])
        return
    screen.say("starting a server of its own")
    async with own_server() as server:
        if asked.warm_up:
            screen.say(f"warming up for {asked.warm_up:g} s: until then the cache is not read from")
            await server.warm(await server.create_key("reads"), asked.warm_up)
        yield Place(server.url, server)


def _bar(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in MEANINGS:
        raise argparse.ArgumentTypeError(f"no objective is called {name}; there are {', '.join(MEANINGS)}")
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
    add("--pace", type=float, help="requests of one user a second; 0 is as fast as answers come")
    add("--seconds", type=float, help="of each scenario")
    add("--shape", choices=SHAPES, default="steady")
    add("--processes", type=int, default=1, help="that the users are spread over; one uses one core")
    add("--ui", type=int, nargs="?", const=UI_PORT, metavar="PORT", help=f"locust's web UI on this machine ({UI_PORT})")
    add("--bar", action="append", type=_bar, default=[], metavar="NAME=NUMBER", help="another bar: p99_ms=200")
    add("--burst", type=int, help="of the key, for a flood with --host, where the key has not been idle")
    add("--seed", type=int, default=1, help="of what the users choose")
    add("--warm-up", type=float, default=WARM_UP_SECONDS, help="seconds, of a server of its own")
    add("--reports", type=Path, default=PROJECT / "reports", help="folder, one in it for each scenario")
    return parser


if __name__ == "__main__":
    sys.exit(main())
