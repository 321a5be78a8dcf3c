"""
`make load`: virtual users against a server of its own, one scenario after the other, each judged when it is over.

With --host it is your own server, with an API key of the role write in LEDGER_LOAD_KEY.

Exit codes: 0 every objective was met, 1 one was missed or a promise was broken, 2 it could not be run, 130 interrupted.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.history.api import ApiError
from loadtests.history.model import HistoryError
from loadtests.kit import objectives, report
from loadtests.kit.catalogue import FLOOD_LIMIT, SCENARIOS, SHAPES
from loadtests.kit.plan import KEY_VARIABLE
from loadtests.kit.process import LocustError
from loadtests.kit.run import Keys, Place, Wishes, run_scenario, warm_up
from loadtests.kit.screen import Screen
from loadtests.own_server import PLENTY, PROJECT, OwnServer, ServerError, own_server, said

GOOD, MISSED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130
# Of each scenario when nothing else is asked for: long enough for every check to have something to judge.
SECONDS = 8.0
# Of a soak and of a search for the knee.
LONG_SECONDS = {"soak": 600.0, "knee": 80.0}
# Seconds until the cache of a server just started is read from, and a little more.
WARM_UP_SECONDS = 12.0
UI_PORT = 8089


class Own:
    """A server of one's own, with a ledger for every scenario."""

    def __init__(self, server: OwnServer) -> None:
        self.url = server.url
        self._server = server

    def keys(self, scenario: str) -> Keys:
        """Make the keys of a run; a flood is sent with one that has a limit worth the name."""
        own = self._server.create_key(scenario)
        if scenario != "flood":
            return Keys(own, own, None)
        quota, _, burst = FLOOD_LIMIT
        limits = ("--rate", f"{quota}/s", "--burst", str(burst), *PLENTY[4:])
        return Keys(self._server.create_key(scenario, limits), own, FLOOD_LIMIT)

    def audit(self) -> tuple[bool, str] | None:
        """Audit all books of the server."""
        done = self._server.audit()
        return done.returncode == 0, said(done).splitlines()[-1]


class Theirs:
    """A server that was there before: one key for everything, and no audit from here."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._key = key

    def keys(self, _scenario: str) -> Keys:
        """Return the one key."""
        return Keys(self._key, self._key, None)

    def audit(self) -> None:
        """Nobody can be asked over HTTP."""


def main(words: list[str] | None = None) -> int:
    """Run the scenarios and say what was missed."""
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
    wishes = _wishes(parser, asked)
    screen = Screen()
    try:
        with _place(asked, screen) as place:
            return _run(names, place, wishes, screen)
    except (ApiError, HistoryError, LocustError, ServerError) as error:
        screen.say(f"load: {error}")
        return NOT_RUN
    except KeyboardInterrupt:
        screen.say("load: interrupted")
        return INTERRUPTED


def _run(names: list[str], place: Place, wishes: Wishes, screen: Screen) -> int:
    failed = []
    for name in names:
        outcome = run_scenario(name, place, wishes, screen)
        report.write(outcome)
        for line in report.lines(outcome):
            screen.say(line)
        if not outcome.good:
            failed.append(name)
    screen.say(f"{len(names) - len(failed)} of {len(names)} scenarios are good; reports are in {wishes.reports}/")
    if failed:
        screen.say(f"missed: {', '.join(failed)}")
    return MISSED if failed else GOOD


@contextmanager
def _place(asked: argparse.Namespace, screen: Screen) -> Iterator[Place]:
    if asked.host:
        yield Theirs(asked.host, os.environ[KEY_VARIABLE])
        return
    screen.say("starting a server of its own")
    with own_server() as server:
        place = Own(server)
        if asked.warm_up:
            screen.say(f"warming up for {asked.warm_up:g} s: until then the cache is not read from")
            warm_up(place, asked.warm_up)
        yield place


def _wishes(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> Wishes:
    bars = {}
    for text in asked.bar:
        name, _, value = text.partition("=")
        try:
            bars[name] = float(value)
        except ValueError:
            parser.error(f"--bar is NAME=NUMBER, not {text}")
        if name not in objectives.names():
            parser.error(f"no objective is called {name}; there are {', '.join(objectives.names())}")
    return Wishes(
        users=asked.users,
        pace=asked.pace,
        seconds=asked.seconds or LONG_SECONDS.get(asked.shape, SECONDS),
        shape=asked.shape,
        seed=asked.seed,
        processes=asked.processes,
        ui_port=asked.ui,
        burst=asked.burst,
        bars=bars,
        reports=asked.reports,
    )


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
    add(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME",
        help="one or more, by commas; without it, all, but no flood with --host",
    )
    add("--host", metavar="URL", help=f"your server; its key comes in {KEY_VARIABLE}")
    add("--users", type=_positive, help="at once, at most")
    add("--pace", type=_not_negative, help="requests of one user a second; 0 is as fast as answers come")
    add("--seconds", type=_not_negative, help="of each scenario")
    add("--shape", choices=SHAPES, default="steady")
    add("--processes", type=_positive, default=1, help="that the users are spread over; one uses one core")
    add("--ui", type=int, nargs="?", const=UI_PORT, metavar="PORT", help=f"locust's web UI on this machine ({UI_PORT})")
    add("--bar", action="append", default=[], metavar="NAME=NUMBER", help="another bar: p99_ms=200")
    add("--burst", type=_positive, help="of the key, for a flood with --host, where the key has not been idle")
    add("--seed", type=int, default=1, help="of what the users choose")
    add("--warm-up", type=_not_negative, default=WARM_UP_SECONDS, help="seconds, of a server of its own")
    add("--reports", type=Path, default=PROJECT / "reports", help="folder, one in it for each scenario")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("not negative")
    return number


if __name__ == "__main__":
    # Whoever ends us by a signal does not want to look for a server and users that go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
