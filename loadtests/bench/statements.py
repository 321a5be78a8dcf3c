"""The SQL of the benchmark, which is in statements.sql."""

import re
from pathlib import Path

_BLOCKS = re.split(
    r"^-- name: (\w+).*\n", Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"), flags=re.MULTILINE
)
_STATEMENTS = dict(zip(_BLOCKS[1::2], _BLOCKS[2::2], strict=True))


def statement(name: str) -> str:
    """Return the statement of that name."""
    return _STATEMENTS[name]
