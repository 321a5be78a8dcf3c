"""Prefixes of account ids, which limit the accounts of a ledger that a caller sees."""

import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from server.ledger.limits import ACCOUNT_ID_PATTERN

# Maximum number of prefixes: each is a range of its own in lists and sums.
PREFIXES_MAX: Final = 20

_is_prefix: Final = re.compile(ACCOUNT_ID_PATTERN.replace("$", r"\Z")).match


class Prefixes(NamedTuple):
    """
    A set of accounts, given by prefixes of their ids.

    Attributes:
        texts: Sorted; none of them begins with another one.
    """

    texts: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Prefixes":
        """Return the accounts whose ids begin with one of these texts."""
        kept: list[str] = []
        for text in sorted(texts):
            if not kept or not text.startswith(kept[-1]):
                kept.append(text)
        return cls(tuple(kept))

    def has(self, account: str | None) -> bool:
        """Return whether an account is one of them; False for None."""
        return account is not None and account.startswith(self.texts)

    def cover(self, others: "Prefixes | None") -> bool:
        """Return whether all of the *others* are among them; None stands for the whole ledger."""
        return others is not None and all(self.has(text) for text in others.texts)

    def under(self, prefix: str) -> tuple[str, ...]:
        """Return those of the accounts whose ids begin with *prefix*, as sorted prefixes without overlap."""
        return (prefix,) if self.has(prefix) else tuple(text for text in self.texts if text.startswith(prefix))


def read_prefixes(texts: Collection[str]) -> Prefixes:
    """
    Return the accounts whose ids begin with one of these texts.

    Raises:
        ValueError: There are none or too many, or no account id can begin with one of them.
    """
    if not 1 <= len(texts) <= PREFIXES_MAX:
        raise ValueError(f"a key is narrowed to 1 to {PREFIXES_MAX} prefixes of account ids")
    if not all(map(_is_prefix, texts)):
        raise ValueError("a prefix has 1 to 64 letters (A to Z, a to z), digits, and . : _ - after the first")
    return Prefixes.of(texts)
