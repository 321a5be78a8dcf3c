"""Content negotiation: whether a caller prefers a media type over JSON."""

import re
from collections.abc import Iterable
from typing import Final

# A media range of Accept, and its weight.
_RANGE: Final = re.compile(r"\s*(?P<type>[^\s;,]+)\s*(?:;(?P<parameters>.*))?", re.DOTALL)
_WEIGHT: Final = re.compile(r"(?:^|;)\s*q\s*=\s*(?P<weight>[01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)


def prefers(accept: Iterable[str], media: str) -> bool:
    """Return whether the Accept fields name a media type and do not prefer JSON to it."""
    weights: dict[str, float] = {}
    for text in ",".join(accept).split(","):
        found = _RANGE.fullmatch(text)
        if found is None:
            continue
        weight = _WEIGHT.search(found["parameters"] or "")
        weights[found["type"].lower()] = float(weight["weight"]) if weight else 1.0
    wanted = weights.get(media, 0.0)
    return wanted > 0 and wanted >= weights.get("application/json", 0.0)
