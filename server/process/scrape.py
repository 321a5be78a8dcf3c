"""Makes the body of `/metrics` on the admin port. Importing this module takes a tenth of a second."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from server.process.channel import Counted, Place
from server.process.mirror import Mirror
from server.process.reporter import values_of
from server.process.totals import Counts, Labels, Totals
from server.process.usage import usage
from server.telemetry.metrics import METRICS, SUPERVISED, Metric, Sample
from server.telemetry.version import VERSION


def metrics(mirror: Mirror) -> bytes:
    """Return the sums of all children's metrics and the supervisor's own, in Prometheus's text format."""
    return text(mirror.totals(), _supervised(mirror))


def metrics_alone(samples: Iterable[Sample]) -> bytes:
    """Return the metrics of this process, which has no supervisor, in Prometheus's text format."""
    counts, totals = Counts(), Totals()
    values = values_of(samples)
    counts.update(Counted(tuple(values), {value.name: METRICS[value.name] for value in values}))
    totals.add(counts)
    return text(totals, {"tallystick_build_info": {(VERSION,): 1}})


def text(totals: Totals, supervised: Mapping[str, Mapping[Labels, float]]) -> bytes:
    """Return totals and the values of the metrics in SUPERVISED, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(totals, supervised))
    return generate_latest(registry)


def _supervised(mirror: Mirror) -> Mapping[str, Mapping[Labels, float]]:
    places, status = mirror.places(), mirror.status
    used = {place.label: found for place in places if place.pid and (found := usage(place.pid)) is not None}
    shown: dict[str, Mapping[Labels, float]] = {
        "tallystick_build_info": {(VERSION,): 1},
        "tallystick_workers": {(state,): number for state, number in status.states.items()},
        "tallystick_worker_restarts_total": {(): sum(place.restarts for place in places if place.vital)},
        "tallystick_worker_cpu_seconds_total": {(slot,): found.cpu_seconds for slot, found in used.items()},
        "tallystick_worker_resident_bytes": {(slot,): found.resident_bytes for slot, found in used.items()},
        "tallystick_worker_silent_seconds": {(place.label,): place.silent_seconds for place in places if place.pid},
        "tallystick_admin_restarts_total": {(): _restarts(places, "admin")},
    }
    if status.background is not None:
        states: Mapping[Labels, float] = {(state,): number for state, number in status.background.items()}
        shown["tallystick_background_processes"] = states
        shown["tallystick_background_restarts_total"] = {(): _restarts(places, "background")}
    return shown


def _restarts(places: Iterable[Place], label: str) -> int:
    return sum(place.restarts for place in places if place.label == label)


class _Collector:
    """Yields all metrics in the form that prometheus-client collects."""

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
