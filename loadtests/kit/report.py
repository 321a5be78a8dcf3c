"""What a run came to, on the screen and in a folder."""

import json
from pathlib import Path

from loadtests.history.verdict import CHECKS, SHOWN_MAX
from loadtests.kit.run import Outcome
from loadtests.kit.stats import PERCENTILES


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
    if outcome.audit is None:
        text.append("  audit: not run; run `tallystick audit` where the database is")
    else:
        text.append(f"  audit: {outcome.audit[1]}")
    knee = _knee(Path(outcome.plan.folder))
    return [*text, knee] if knee else text


def write(outcome: Outcome) -> None:
    """Write the findings beside locust's own report."""
    folder = Path(outcome.plan.folder)
    document = {
        "good": outcome.good,
        "figures": outcome.figures,
        "objectives": [
            {"name": f.objective.name, "bar": f.objective.bar, "figure": f.figure, "met": f.met}
            for f in outcome.findings
        ],
        "judged": outcome.verdict.judged,
        "lies": [violation._asdict() for violation in outcome.verdict.violations],
        "audit": outcome.audit,
    }
    (folder / "verdict.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "verdict.txt").write_text("\n".join(lines(outcome)) + "\n", encoding="utf-8")


def _knee(folder: Path) -> str:
    path = folder / "knee.json"
    if not path.exists():
        return ""
    steps = json.loads(path.read_text(encoding="utf-8"))
    tried = ", ".join(f"{step['users']} users {step['rate']:,.0f}/s" for step in steps["steps"])
    knee = steps["knee"]
    return f"  knee: {knee['users']} users, {knee['rate']:,.0f} requests/s, p95 {knee['p95_ms']:g} ms (tried: {tried})"
