"""Rules and dashboard use only existing series, and every alert has its paragraph in the documentation."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.telemetry.documented import ALL, ROOT
from tests.telemetry.promql import names

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
# The labels that Prometheus adds to every series, and its own series about a server.
ADDED = {"job", "instance"}
UP = "up"


def expressions() -> Iterator[tuple[str, str]]:
    """Return all expressions, each with its place."""
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def series_of_metrics() -> dict[str, set[str]]:
    """Return the names of all series, with their labels."""
    found: dict[str, set[str]] = {UP: set()}
    for name, metric in ALL.items():
        if metric.kind != "histogram":
            found[name] = set(metric.labels)
        else:
            found |= {f"{name}_{end}": set(metric.labels) for end in ("count", "sum")}
            found[f"{name}_bucket"] = {*metric.labels, "le"}
    for rule in RULES:
        if "record" in rule:
            found[rule["record"]] = names(rule["expr"]).labels & {"job", "instance"}
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_only_what_there_is(where: str, expression: str) -> None:
    """Every series and label in an expression exists."""
    known = series_of_metrics()
    found = names(expression)
    assert found.series
    assert found.series <= known.keys()
    assert found.labels <= ADDED.union(*(known[name] for name in found.series))


@pytest.mark.parametrize(
    ("expression", "series", "labels"),
    [
        ('sum by (job, le) (rate(a_bucket{x=~"b|c", y!="}"}[5m])) / 2 > 0.1', {"a_bucket"}, {"job", "le", "x", "y"}),
        ("time() - max(a:b) > 2 * 86400 or absent(c)", {"a:b", "c"}, set()),
        ("rate(a[$__rate_interval])", {"a"}, set()),
    ],
)
def test_names(expression: str, series: set[str], labels: set[str]) -> None:
    """The parser finds the series and labels in an expression."""
    assert names(expression) == (series, labels)


@pytest.mark.parametrize("expression", ["sum(a", "sum(a))", "a{b]", 'a{b="c}'])
def test_what_is_not_balanced(expression: str) -> None:
    """The parser refuses expressions whose brackets or strings do not match."""
    with pytest.raises(ValueError, match=r"match|ended"):
        names(expression)


def test_every_metric_is_shown() -> None:
    """The dashboard shows all metrics."""
    shown = " ".join(expression for _, expression in expressions())
    assert [name for name in ALL if name not in shown] == []


def test_alerts_are_whole() -> None:
    """Each alert has a severity, a summary and a paragraph in docs/how-to/alerts.md, which has no others."""
    text = (ROOT / "docs" / "how-to" / "alerts.md").read_text()
    paragraphs = re.findall(r"^## (Tallystick\w+)\n\n\S", text, re.MULTILINE)
    assert [alert["alert"] for alert in ALERTS] == paragraphs
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["summary"].endswith(".")
        assert alert["annotations"]["runbook"] == f"docs/how-to/alerts.md#{alert['alert'].lower()}"
        labels = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", alert["expr"]))))
        recorded = {"instance"} if "loop_lag" in alert["expr"] or alert["expr"].startswith(UP) else set()
        assert labels <= kept | recorded


def test_links_lead_somewhere() -> None:
    """Every link to a paragraph has its heading."""
    text = (ROOT / "docs" / "how-to" / "alerts.md").read_text()
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    assert {anchor for anchor in re.findall(r"\]\(#([\w-]+)\)", text) if anchor not in headings} == set()
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert set(re.findall(r"alerts\.md#([\w-]+)", page)) <= headings


def test_panels_do_not_overlap() -> None:
    """Ids and positions on the dashboard are unique."""
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
