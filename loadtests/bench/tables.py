"""The figures of each part as Markdown tables: medians, with the lowest and the highest where there are several."""

from collections.abc import Callable, Sequence
from typing import Any

from loadtests.bench.record import Part, group, middle, spread
from loadtests.openloop.results import Run
from loadtests.text import table

# What the figures call it, and what a reader does.
NAMES = {
    "read": "cached read",
    "replay": "replay",
    "post": "first post",
    "hot": "first post, one hot account",
    "bulk": "bulk, transfers",
    "statement": "statement, newest 20",
    "spread": "TPC-B, scale 20",
    "rows": "a row",
}
# Behind a figure of which the generator was late itself.
LATE = " †"
KINDS = ("server", "postgres", "redis", "generator")


def number(value: float) -> str:
    """Return a figure with three digits, or all of those before its point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread_of(runs: Sequence[Run], name: str = "per_second") -> str:
    """Return the median of a figure, and its spread if there are several."""
    found = spread([run[name] for run in runs])
    text = number(found.middle)
    return text if found.runs == 1 else f"{text} ({number(found.low)}-{number(found.high)})"


def _middles(runs: Sequence[Run], *names: str) -> list[str]:
    return [number(middle(runs, lambda run, name=name: float(run[name]))) for name in names]  # type: ignore[misc]


def name_of(workload: str) -> str:
    """Return what a reader calls a workload."""
    return NAMES.get(workload, workload)


def label_of(side: str, workload: str) -> str:
    """Return what a reader calls a workload of one side."""
    return "pgbench: TPC-B, scale 1" if (side, workload) == ("pgbench", "hot") else f"{side}: {name_of(workload)}"


def api(part: Part) -> str:
    """Rates and latencies of each kind of request."""
    rows = []
    for (workload, connections), runs in sorted(
        group(part.runs, "workload", "connections").items(),
        key=lambda item: (list(NAMES).index(item[0][0]), item[0][1]),
    ):
        other = sum(sum(run["other"].values()) for run in runs)
        rows.append(
            [
                name_of(workload),
                f"{connections:,}",
                spread_of(runs),
                *_middles(runs, "p50", "p99", "p999"),
                f"{other:,}",
            ]
        )
    head = ("what", "connections", "a second", "p50 ms", "p99 ms", "p99.9 ms", "not answered 2xx")
    return table(head, rows)


def sides(part: Part) -> str:
    """Tallystick beside the others."""
    found = group(part.runs, "side", "workload")
    rows = []
    for (side, workload), ours in found.items():
        theirs = found.get(("peer", workload))
        if side == "tallystick" and theirs:
            times = middle(ours, _rate) / max(middle(theirs, _rate), 1e-9)
            rows.append([name_of(workload), spread_of(ours), spread_of(theirs), f"{times:.1f}"])
    text = table(("what, 64 connections", "Tallystick, a second", "peer, a second", "times"), rows)
    names = {
        ("bare", "read"): "aiohttp handler that answers the bytes of a read and does nothing else, 64 connections",
        ("pgbench", "spread"): "`pgbench` TPC-B, scale 20, 16 clients, transactions",
        ("pgbench", "hot"): "`pgbench` TPC-B, scale 1 (one hot row), 16 clients, transactions",
        ("insert", "rows"): "plain INSERT of 500 rows into the same table with the same indexes, 4 clients, rows",
    }
    others = [[words, spread_of(found[key])] for key, words in names.items() if key in found]
    return text + "\n\n" + table(("beside it", "a second"), others)


def _rate(run: Run) -> float:
    return float(run["per_second"])


def cpu(part: Part) -> str:
    """Microseconds of CPU time a request by what used them, user and system."""
    rows = []
    for (side, workload), runs in group(part.runs, "side", "workload").items():
        cells = []
        for kind in KINDS:
            parts = [
                middle(runs, lambda run, kind=kind, index=index: microseconds(run, kind)[index])  # type: ignore[misc]
                for index in (0, 1)
            ]
            cells.append(" + ".join(number(part) for part in parts) if any(parts) else "-")
        whole = middle(runs, lambda run: sum(sum(microseconds(run, kind)) for kind in KINDS[:3]))
        rows.append([label_of(side, workload), *cells, number(whole)])
    head = ("µs of CPU, user + system", "server", "PostgreSQL", "Valkey", "generator", "without the generator")
    return table(head, rows)


def microseconds(run: Run, kind: str) -> tuple[float, float]:
    """Return the user and the system time that a request took of one kind of process."""
    answered = run.get("answered") or run["per_second"] * run["seconds"]
    user, system = run["cpu"].get(kind, (0.0, 0.0))
    return 1e6 * user / max(answered, 1), 1e6 * system / max(answered, 1)


def open_loop(part: Part) -> str:
    """Latency under loads that do not wait."""
    rows = []
    for (workload, share), runs in sorted(group(part.runs, "workload", "share").items(), key=lambda item: str(item[0])):
        late = LATE if any(run["late_generator"] for run in runs) else ""
        what = f"{name_of(workload)}, {share:.0%} of peak{late}"
        rows.append([what, *_middles(runs, "offered", "per_second", "p50", "p99", "p999", "gave_up", "lag_p99")])
    head = (
        "what",
        "due a second",
        "good a second",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "never sent",
        "generator's lag, p99 ms",
    )
    return table(head, rows) + _late_note(part)


def _late_note(part: Part) -> str:
    if not any(run.get("late_generator") for run in part.runs):
        return ""
    return "\n\n† In at least one of these runs the generator itself was late: they say little about the server."


def overload(part: Part) -> str:
    """Goodput at multiples of the peak."""
    rows = []
    for (step,), runs in group(part.runs, "step").items():
        share = middle(runs, lambda run: float(run["of_peak"]))
        names = (
            "offered",
            "per_second",
            "p50",
            "p99",
            "refused_per_second",
            "refused_p99",
            "unsent_per_second",
            "lag_p99",
        )
        cells = _middles(runs, *names)
        rows.append([step, *cells[:2], f"{share:.0%}", *cells[2:]])
    head = ("run", "due a second", "good a second", "of peak", "p50 ms", "p99 ms", "refused a second", "refusal p99 ms")
    return table((*head, "never sent a second", "generator's lag, p99 ms"), rows)


def transfers(part: Part) -> str:
    """Rates by the size of a ledger."""
    return _pivot(part, "transfers", "transfers at first")


def ledgers(part: Part) -> str:
    """Rates by the number of ledgers."""
    return _pivot(part, "ledgers", "ledgers, 256 connections")


def _pivot(part: Part, column: str, words: str) -> str:
    found = group(part.runs, column, "workload")
    workloads = list(dict.fromkeys(workload for _, workload in found))
    sizes = list(dict.fromkeys(size for size, _ in found))
    rows = []
    for size in sizes:
        cells = []
        for workload in workloads:
            runs = found.get((size, workload))
            p99 = "" if not runs else f", p99 {_middles(runs, 'p99')[0]} ms"
            cells.append("-" if not runs else spread_of(runs) + p99)
        rows.append([f"{size:,}", *cells])
    return table((words, *(f"{name_of(workload)}, a second" for workload in workloads)), rows)


def crowds(part: Part) -> str:
    """Latency and memory by the number of connections."""
    rows = []
    for (connections,), runs in group(part.runs, "connections").items():
        late = LATE if any(run["late_generator"] for run in runs) else ""
        cells = _middles(runs, "per_second", "p50", "p99", "p999", "broken")
        memory = spread([run["memory_mib"] for run in runs]).high
        rows.append([f"{connections:,}{late}", *cells, number(memory)])
    head = ("connections", "good a second", "p50 ms", "p99 ms", "p99.9 ms", "broken", "more memory, MiB")
    return table(head, rows) + _late_note(part)


def generators(part: Part) -> str:
    """This generator beside wrk."""
    rows: list[list[str]] = []
    for (side, connections), runs in group(part.runs, "side", "connections").items():
        share = f"{middle(runs, lambda run: float(run['generator_share'])):.0%}"
        rows.append([f"{side}, {connections:,} connections", spread_of(runs), share])
    return table(("a bare handler asked by", "a second", "CPU of the generator, of one core"), rows)


# The name that the template knows, the part whose figures they are, and what makes a table of them.
FIGURES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "api": ("api", api),
    "sides": ("sides", sides),
    "cpu": ("sides", cpu),
    "open": ("open", open_loop),
    "overload": ("overload", overload),
    "transfers": ("transfers", transfers),
    "connections": ("connections", crowds),
    "ledgers": ("ledgers", ledgers),
    "generator": ("generator", generators),
}
