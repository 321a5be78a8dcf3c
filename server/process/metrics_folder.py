"""Where the workers write their numbers, and the supervisor reads them for whoever scrapes."""

import collections
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import orjson

from server.telemetry.metrics import RESTARTS, WORKERS

# Seconds over which busy accounts are counted, and how many of them are shown.
HOT_SECONDS: Final = 10.0
HOT_ACCOUNTS_SHOWN: Final = 10
# Name of the file in which a worker says which accounts these are.
HOT_FILE: Final = "hot-{identity}.json"
# Names that the workers of one slot take in turn: more than there can be of them at once, with some still ending while
# others have been started. A name's files are taken over by its next bearer, so their number does not grow.
NAMES_MAX: Final = 16


class MetricsFolder:
    """A folder of this process's own, gone with it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="tallystick-metrics-"))
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

    def name(self, slot: int) -> str:
        """Return the name that the next worker of a slot writes under."""
        self._starts[slot] += 1
        return f"{slot}-{self._starts[slot] % NAMES_MAX}"

    def ended(self, name: str) -> None:
        """Forget what a worker that has ended said of the moment; what it counted stays."""
        for file in (*self.path.glob(f"gauge_live*_{name}.db"), self.path / HOT_FILE.format(identity=name)):
            file.unlink(missing_ok=True)

    def text(self, states: Mapping[str, int], restarts: int) -> bytes:
        """
        Return all numbers of all workers together, in Prometheus's text format.

        Args:
            states: How many workers are in which state.

            restarts: Workers that died and had to be started again.
        """
        # Loaded by whom it concerns: it takes a tenth of a second.
        from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest  # noqa: PLC0415
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.path))  # type: ignore[no-untyped-call]
        name, metric = WORKERS
        gauge = Gauge(name, metric.help, metric.labels, registry=registry)
        for state, number in states.items():
            gauge.labels(state).set(number)
        name, metric = RESTARTS
        Counter(name, metric.help, registry=registry).inc(restarts)
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
