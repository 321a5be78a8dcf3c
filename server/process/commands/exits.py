"""How commands end."""

import sys
from typing import Final

# Something was looked at and is not well; the command could not be carried out.
EXIT_FAULTS: Final = 1
EXIT_ERROR: Final = 2


def fail(text: str) -> int:
    """Say why a command cannot be carried out, and return its exit code."""
    print(f"tallystick: {text}", file=sys.stderr)
    return EXIT_ERROR
