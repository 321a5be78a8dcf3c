"""What the checks of a history found."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# What each check asserts, in the order in which they are made.
CHECKS = {
    "C1": "balances sum to zero, every account is known, none is below its floor",
    "C2": "an acknowledged transfer is there once, a refused one is not, an unknown one at most once",
    "C3": "every balance is the fold of its entries, and every transfer's entries net to zero",
    "C4": "all answers to one request are the same, byte for byte, and one at most is the first",
    "C5": "a read shows every transfer that was acknowledged before it was sent",
    "C6": "to one client no account's version goes back",
    "C7": "a key is bound to one request, in one ledger; another under it changes nothing",
    "K": "a look-up by key says what became of it",
    "H1": "no more is captured than held or moved back than moved, nothing of a hold that has ended or is due",
    "H2": "a transfer that is read shows what was acknowledged of it before, and no hold that is due",
    "H3": "accounts that are read show no hold that has ended or is due, and the rest as available",
    "C8": "after the faults nearly everything succeeds again, and sizes are back",
}


# Violations that are shown of each check; the count says how many there are.
SHOWN_MAX = 10


class Violation(NamedTuple):
    """One thing that must not be, and the check that found it."""

    check: str
    what: str


@dataclass(slots=True)
class Verdict:
    """The violations, and how much each check had to judge: one that judged nothing proves nothing."""

    violations: list[Violation] = field(default_factory=list)
    judged: Counter[str] = field(default_factory=Counter)

    def flag(self, check: str, what: str) -> None:
        self.violations.append(Violation(check, what))

    def lines(self, checks: Mapping[str, str]) -> Iterator[str]:
        """Say what some checks found, with what they assert."""
        for name, asserted in checks.items():
            found = [violation.what for violation in self.violations if violation.check == name]
            said = f"{len(found):,} violations" if found else "holds" if self.judged[name] else "nothing to judge"
            yield f"  {name:<2} {said:<17}{self.judged[name]:>9,} judged   {asserted}"
            yield from (f"       {what}" for what in found[:SHOWN_MAX])
