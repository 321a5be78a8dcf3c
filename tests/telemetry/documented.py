"""Reads the metrics in docs/reference/metrics.md, and those of a server's /metrics."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from server.telemetry.metrics import AUDITED, METRICS, SUPERVISED

ROOT = Path(__file__).resolve().parents[2]
ALL = {**METRICS, **SUPERVISED, **AUDITED}
_ROW = re.compile(
    r"^\| `(?P<name>tallystick_\w+)` \| (?P<kind>\w+) \| (?P<labels>[^|]*)\| [^|]+ \| [^|]+ \|$", re.MULTILINE
)
_LABEL = re.compile(r"`(?P<name>\w+)`(?:: (?P<values>[^;]*))?")


class Row(NamedTuple):
    """A line of the table: the type, and the described values of each label."""

    kind: str
    labels: Mapping[str, str]


def rows() -> dict[str, Row]:
    """Return the lines of the table by the metrics' names."""
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    found = {
        match["name"]: Row(
            match["kind"],
            {label["name"]: (label["values"] or "").strip() for label in _LABEL.finditer(match["labels"])},
        )
        for match in _ROW.finditer(text)
    }
    assert len(found) == text.count("| `tallystick_"), "every line has five columns and is there once"
    return found


class Series(NamedTuple):
    """A series without its value; all buckets of a histogram count as one."""

    metric: str
    labels: tuple[tuple[str, str], ...]


def series(text: str) -> dict[Series, float]:
    """Return the series of a page in the text format with their values; for a histogram, the number of observations."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith(("_bucket", "_sum")):
                continue
            name = family.name if family.type == "histogram" else sample.name
            found[Series(name, tuple(sorted(sample.labels.items())))] = sample.value
    return found
