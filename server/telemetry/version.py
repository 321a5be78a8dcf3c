"""The version of the program that runs."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _installed() -> str:
    try:
        return version("tallystick")
    except PackageNotFoundError:
        # A checkout that is not installed.
        return "unknown"


VERSION: Final = _installed()
