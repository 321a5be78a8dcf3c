"""What a run came to, on the screen and in a folder."""

import json
from pathlib import Path

from loadtests.history.verdict import CHECKS, SHOWN_MAX
from loadtests.kit.catalogue import PERCENTILES
from loadtests.kit.run import Outcome


def lines(outcome: Outcome) -> list[str]:
    """Return what is to be said about a run: its figures, and plainly what was missed."""
    figures, verdict = outcome.figures, outcome.verdict
    judged = ", ".join(f"{name} {verdict.judged[name]:,}" for name in CHECKS if verdict.judged[name])
    latencies = ", ".join(f"{name.removesuffix('_ms')} {figures[name]:g}" for name in PERCENTILES)
    word = "good" if outcome.good else "FAILED"
    counts = f"{figures['requests']:,} requests, {figures['failures']:,} failed, {figures['lies']:g} lies"
    text = [f"{outcome.plan.scenario}: {word}: {counts}, {latencies} ms", f"  judged: {judged}"]
    text += [f"  missed: {finding}" for finding in outcome.findings if not finding.met]
    text += [f"  {violation.check}: {violation.what}" for violation in verdict.violations[:SHOWN_MAX]]
    audit = "not run; run `tallystick audit` where the database is" if outcome.audit is None else outcome.audit[1]
    text.append(f"  audit: {audit}")
    path = Path(outcome.plan.folder) / "knee.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        tried = ", ".join(f"{step['users']} users {step['rate']:,.0f}/s" for step in found["steps"])
        knee = "{users} users, {rate:,.0f} requests/s, p95 {p95_ms:g} ms".format(**found["knee"])
        text.append(f"  knee: {knee} (tried: {tried})")
    return text


def write(outcome: Outcome) -> None:
    """Write the findings beside locust's own report."""
    folder = Path(outcome.plan.folder)
    document = {
        "good": outcome.good,
        "figures": outcome.figures,
        "objectives": [{**finding._asdict(), "met": finding.met} for finding in outcome.findings],
        "judged": outcome.verdict.judged,
        "lies": [violation._asdict() for violation in outcome.verdict.violations],
        "audit": outcome.audit,
    }
    (folder / "verdict.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "verdict.txt").write_text("\n".join(lines(outcome)) + "\n", encoding="utf-8")
