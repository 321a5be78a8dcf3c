"""Reads origins (RFC 6454)."""

import re
from typing import Final

# An origin as browsers write it.
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?")
_DEFAULT_PORT: Final = re.compile(r"https://.*:443|http://.*:80")


def read_origins(text: str) -> tuple[str, ...]:
    """
    Return the origins of a list separated by commas.

    Raises:
        ValueError: An entry is not an origin, or browsers never write it like this.
    """
    origins = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    for origin in origins:
        if origin == "*":
            raise ValueError("* is not taken: name each origin whose pages may read answers")
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin such as https://app.example.com, in small letters, no path")
        if _DEFAULT_PORT.fullmatch(origin):
            raise ValueError(f"{origin!r}: browsers leave out the port where it is the usual one")
    return origins
