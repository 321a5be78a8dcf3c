"""Where the workers write their numbers, and the supervisor reads them for whoever scrapes."""

import collections
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import orjson

from server.process.usage import usage
from server.telemetry.metrics import SUPERVISED
from server.telemetry.version import VERSION

if TYPE_CHECKING:
    from prometheus_client import Metric

# Seconds over which busy accounts are counted, and how many of them are shown.
HOT_SECONDS: Final = 10.0
HOT_ACCOUNTS_SHOWN: Final = 10
# Name of the file in which a worker says which accounts these are.
HOT_FILE: Final = "hot-{identity}.json"
# Names that the workers of one slot take in turn: more than there can be of them at once, with some still ending while
# others have been started. A name's files are taken over by its next bearer, so their number does not grow.
NAMES_MAX: Final = 16


_PREFIX: Final = "tallystick-metrics-"
# Locked for as long as its owner lives.
_LOCK: Final = "owner"
# Seconds after which a folder that nobody has locked is one that somebody has left behind, and not one just made.
_YOUNG_SECONDS: Final = 60.0


class MetricsFolder:
    """A folder of this process's own, gone with it; one that was killed leaves its own to the next."""

    def __init__(self) -> None:
        _remove_left_behind(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Not inherited by other programs, so that it is this process's life that counts.
        self._lock = (self.path / _LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._starts: collections.Counter[int] = collections.Counter()

    def __enter__(self) -> "MetricsFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def name(self, slot: int) -> str:
        """Return the name that the next worker of a slot writes under."""
        self._starts[slot] += 1
        return f"{slot}-{self._starts[slot] % NAMES_MAX}"

    def ended(self, name: str) -> None:
        """Forget what a worker that has ended said of the moment; what it counted stays."""
        for file in (*self.path.glob(f"gauge_live*_{name}.db"), self.path / HOT_FILE.format(identity=name)):
            file.unlink(missing_ok=True)

    def text(self, states: Mapping[str, int], restarts: int, pids: Mapping[int, int]) -> bytes:
        """
        Return all numbers of all workers together, in Prometheus's text format.

        Args:
            states: How many workers are in which state.

            restarts: Workers that died and had to be started again.

            pids: The process in each slot that has one.
        """
        # Loaded by whom it concerns: it takes a tenth of a second.
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.path))  # type: ignore[no-untyped-call]
        registry.register(_Supervised(states, restarts, pids))
        return generate_latest(registry)

    def hot_accounts(self) -> bytes:
        """Return the accounts with most transfers in the last few seconds, as JSON."""
        counts: collections.Counter[tuple[int, str]] = collections.Counter()
        for file in self.path.glob(HOT_FILE.format(identity="*")):
            try:
                listed = orjson.loads(file.read_bytes())
            except FileNotFoundError:
                continue
            for item in listed:
                counts[item["ledger_id"], item["account"]] += item["transfers"]
        busiest = counts.most_common(HOT_ACCOUNTS_SHOWN)
        return orjson.dumps(
            {
                "accounts": [
                    {"ledger_id": ledger_id, "account": account, "transfers": number}
                    for (ledger_id, account), number in busiest
                ]
            }
        )


class _Supervised:
    """What the supervisor itself says, as prometheus-client collects it; the same arguments as `MetricsFolder.text`."""

    def __init__(self, states: Mapping[str, int], restarts: int, pids: Mapping[int, int]) -> None:
        found = {str(slot): used for slot, pid in sorted(pids.items()) if (used := usage(pid)) is not None}
        self._values: dict[str, dict[tuple[str, ...], float]] = {
            "tallystick_build_info": {(VERSION,): 1},
            "tallystick_workers": {(state,): number for state, number in states.items()},
            "tallystick_worker_restarts_total": {(): restarts},
            "tallystick_worker_cpu_seconds_total": {(slot,): used.cpu_seconds for slot, used in found.items()},
            "tallystick_worker_resident_bytes": {(slot,): used.resident_bytes for slot, used in found.items()},
        }

    def collect(self) -> "Iterator[Metric]":
        """Return the metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        for name, metric in SUPERVISED.items():
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(name, metric.help, labels=metric.labels)
            for labels, value in self._values[name].items():
                family.add_metric(labels, value)
            yield family


def _remove_left_behind(parent: Path) -> None:
    """Remove the folders of processes that have been killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("rb") as lock:
                if time.time() - (folder / _LOCK).stat().st_mtime > _YOUNG_SECONDS:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            # It is somebody's, or of another user.
            continue
