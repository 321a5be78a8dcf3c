"""The bodies of `/metrics` and `/hot-accounts` on the admin port. Importing this takes a tenth of a second."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from server.process.channel import Counted, HotAccount
from server.process.reporting import values_of
from server.process.supervisor import Supervisor
from server.process.totals import Counts, Labels, Totals
from server.process.usage import usage
from server.telemetry.metrics import METRICS, SUPERVISED, Metric, Sample
from server.telemetry.version import VERSION

# Accounts shown.
HOT_ACCOUNTS_SHOWN: Final = 10


def metrics(supervisor: Supervisor) -> bytes:
    """Return the numbers of all children together and those of the supervisor, in Prometheus's text format."""
    return text(supervisor.totals(), _supervised(supervisor))


def metrics_alone(samples: Iterable[Sample]) -> bytes:
    """Return the numbers of this process, which has no supervisor."""
    counts, totals = Counts(), Totals()
    values = values_of(samples)
    counts.update(Counted(tuple(values), {value.name: METRICS[value.name] for value in values}))
    totals.add(counts)
    return text(totals, {"tallystick_build_info": {(VERSION,): 1}})


def hot_accounts(supervisor: Supervisor) -> bytes:
    """Return the accounts with most transfers in the last few seconds, as JSON."""
    transfers: Counter[tuple[int, str]] = Counter()
    for counts in supervisor.counts():
        for ledger_id, account, number in counts.hot_accounts:
            transfers[ledger_id, account] += number
    busiest = [HotAccount(*which, number)._asdict() for which, number in transfers.most_common(HOT_ACCOUNTS_SHOWN)]
    return orjson.dumps({"accounts": busiest})


def text(totals: Totals, supervised: Mapping[str, Mapping[Labels, float]]) -> bytes:
    """Return the sums of children and values of the metrics of SUPERVISED, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(totals, supervised))
    return generate_latest(registry)


def _supervised(supervisor: Supervisor) -> Mapping[str, Mapping[Labels, float]]:
    used = {slot: found for slot, pid in supervisor.pids().items() if (found := usage(pid)) is not None}
    silent = supervisor.silent_seconds().items()
    return {
        **_background(supervisor),
        "tallystick_build_info": {(VERSION,): 1},
        "tallystick_workers": {(state,): number for state, number in supervisor.states().items()},
        "tallystick_worker_restarts_total": {(): supervisor.restarts},
        "tallystick_worker_cpu_seconds_total": {(slot,): found.cpu_seconds for slot, found in used.items()},
        "tallystick_worker_resident_bytes": {(slot,): found.resident_bytes for slot, found in used.items()},
        "tallystick_worker_silent_seconds": {(slot,): seconds for slot, seconds in silent},
    }


def _background(supervisor: Supervisor) -> Mapping[str, Mapping[Labels, float]]:
    """Return what there is to say of the background process; nothing where there is none."""
    if (found := supervisor.background()) is None:
        return {}
    states, restarts = found
    return {
        "tallystick_background_processes": {(state,): number for state, number in states.items()},
        "tallystick_background_restarts_total": {(): restarts},
    }


class _Collector:
    """All metrics, as prometheus-client collects them."""

    def __init__(self, totals: Totals, supervised: Mapping[str, Mapping[Labels, float]]) -> None:
        self._totals = totals
        self._supervised = supervised

    def collect(self) -> Iterator[Family]:
        for name, metric in self._totals.metrics.items():
            series = self._totals.series[name]
            if metric.kind == "histogram":
                yield _histogram(name, metric, series)
            else:
                yield _family(name, metric, {labels: cells[None] for labels, cells in series.items()})
        for name, values in self._supervised.items():
            yield _family(name, SUPERVISED[name], values)


def _family(name: str, metric: Metric, values: Mapping[Labels, float]) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(name: str, metric: Metric, series: Mapping[Labels, Mapping[float | None, float]]) -> Family:
    family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    for labels, cells in series.items():
        below, buckets = 0.0, []
        for bound in sorted(bound for bound in cells if bound is not None):
            below += cells[bound]
            buckets.append((floatToGoString(bound), below))  # type: ignore[no-untyped-call]
        family.add_metric(labels, buckets, cells[None])
    return family
