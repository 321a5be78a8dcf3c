"""Plans which faults a seed chooses, in which order and for how long."""

import random
from collections.abc import Collection
from dataclasses import dataclass

from loadtests.chaos.faults import KINDS, Fault
from loadtests.chaos.rig import BOTH, SERVER, SINKS

# Seconds before the first fault: caches fill, and the sizes that must be back at the end are measured.
WARM_UP_SECONDS = 3.0
# Seconds without faults after each phase: the service must be back after ten, and the rest is judged (check C8).
QUIET_SECONDS = 14.0
# Seconds without a fault after every client was answered again, until the next fault begins.
GAP_SECONDS = 0.5
# Seconds that healing takes, while databases and servers start. Brokers take longer, and so do faults that need a
# server to be ready before they begin.
HEAL_SECONDS, SLOW_SECONDS = 1.2, 2.5
# One step in this many has a second fault on top of the first.
OVERLAP_ONE_IN = 4
# Seconds between links that are clogged, or healed, one by one.
STAGGER_SECONDS = 0.4
SECONDS_MIN = 20.0
# A shorter run has all its faults in one phase.
TWO_PHASES_SECONDS = 60.0
# Faults that can clog a link each, in any order.
CLOGS = ("postgres silent", "postgres slow", "postgres cut off", "redis replies lost", "redis cut off", "redis slow")
# Links that are clogged, of the four between two servers and two databases.
SWIZZLED = (3, 4)
SWIZZLE_HOLD = (0.5, 2.0)


@dataclass(frozen=True)
class Step:
    """Faults that begin one after the other, last together, and are healed in the order of `heals`."""

    at: float
    faults: tuple[Fault, ...]
    heals: tuple[int, ...]
    hold: float

    @property
    def bounded(self) -> bool:
        return any(KINDS[fault.kind].bounded for fault in self.faults)

    @property
    def needed(self) -> bool:
        return any(KINDS[fault.kind].needed for fault in self.faults)

    @property
    def lasts(self) -> float:
        slow = any(KINDS[fault.kind].alone or KINDS[fault.kind].slow for fault in self.faults)
        heals = SLOW_SECONDS if slow else HEAL_SECONDS
        return self.hold + STAGGER_SECONDS * 2 * (len(self.faults) - 1) + heals + GAP_SECONDS

    def __str__(self) -> str:
        swizzled = "swizzled: " if len(self.faults) > 2 else ""
        names = ", ".join(fault.label for fault in self.faults)
        order = "" if len(self.faults) == 1 else f", healed in the order {' '.join(str(n + 1) for n in self.heals)}"
        return f"{self.at:6.1f} s  {swizzled}{names}, {self.hold:.1f} s{order}"


@dataclass(frozen=True)
class Phase:
    """Steps that are planned to end by `until`, and then QUIET_SECONDS without faults."""

    until: float
    steps: tuple[Step, ...]


def plan(seed: int, seconds: float, without: Collection[str] = ()) -> list[Phase]:
    """Return the faults of a run without the parts in *without*; the same arguments give the same faults."""
    dice, at = random.Random(seed), WARM_UP_SECONDS
    phases: list[Phase] = []
    done: set[str] = set()
    # A round has a phase in which no read may be stale and one in which some may, a minute of each if there is time.
    rounds = max(1, round((seconds - at) / 120))
    each = (seconds - at) / rounds - 2 * QUIET_SECONDS
    lengths: list[tuple[tuple[bool, ...], float]] = [((False,), 0.68 * each), ((True,), 0.32 * each)] * rounds
    if seconds < TWO_PHASES_SECONDS:
        lengths = [((False, True), seconds - at - QUIET_SECONDS)]
    for bounded, length in lengths:
        kinds = [name for name, kind in KINDS.items() if kind.bounded in bounded and kind.part not in without]
        phases.append(_phase(dice, at, length, kinds, done))
        at = phases[-1].until + QUIET_SECONDS
    return phases


def _phase(dice: random.Random, begin: float, seconds: float, kinds: list[str], done: set[str]) -> Phase:
    """Return a phase. Kinds that are not in *done* come before the others; those that the phase has are added to it."""
    needed = [name for name in kinds if KINDS[name].needed]
    others = [name for name in kinds if name not in needed]
    dice.shuffle(needed)
    dice.shuffle(others)
    steps: list[Step] = []
    at = begin = round(begin, 1)
    # Links are swizzled where reads may be stale, because links to Redis are among them.
    swizzle = [""] if any(KINDS[name].bounded for name in kinds) else []
    for name in sorted([*needed, *swizzle, *others], key=done.__contains__):
        step = _step(dice, at, name, kinds) if name else _swizzle(dice, at)
        if at + step.lasts > begin + seconds:
            continue
        steps.append(step)
        done.update(fault.kind for fault in step.faults)
        at = round(at + step.lasts, 1)
    return Phase(begin + seconds, tuple(steps))


def _fault(dice: random.Random, name: str) -> Fault:
    one = KINDS[name].part in (SERVER, SINKS)
    target = dice.choice((0, 1) if one else (0, 1, BOTH)) if KINDS[name].each else BOTH
    return Fault(name, target, dice.random())


def _step(dice: random.Random, at: float, name: str, kinds: list[str]) -> Step:
    faults = [_fault(dice, name)]
    overlaps = dice.randrange(OVERLAP_ONE_IN) == 0
    # The second fault is of another part: a dead process cannot be frozen as well.
    second = dice.choice([k for k in kinds if KINDS[k].part != KINDS[name].part and not KINDS[k].alone])
    if overlaps and not KINDS[name].needed and not KINDS[name].alone:
        faults.append(_fault(dice, second))
    hold = dice.uniform(*KINDS[name].hold)
    heals = dice.sample(range(len(faults)), len(faults))
    return Step(at, tuple(faults), tuple(heals), round(hold, 1))


def _swizzle(dice: random.Random, at: float) -> Step:
    """Clog several links one by one, and heal them in another order."""
    links = [(name, target) for name in CLOGS for target in (0, 1)]
    # One fault for each link: a silent link cannot be slow as well.
    chosen: dict[tuple[str, int], str] = {}
    for name, target in dice.sample(links, len(links)):
        chosen.setdefault((KINDS[name].part, target), name)
    count = min(dice.randint(*SWIZZLED), len(chosen))
    faults = tuple(Fault(name, target, dice.random()) for (_, target), name in list(chosen.items())[:count])
    heals = tuple(dice.sample(range(count), count))
    return Step(at, faults, heals, round(dice.uniform(*SWIZZLE_HOLD), 1))
