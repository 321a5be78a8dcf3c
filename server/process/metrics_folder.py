"""Where the workers write their numbers, and the supervisor reads them for whoever scrapes."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Final

import orjson

from server.process.publishing import HOT_ACCOUNTS_SHOWN, HOT_FILE

# Names that the workers of one slot take in turn: more than there can be of them at once, with some still ending while
# others have been started. A name's files are taken over by its next bearer, so their number does not grow.
NAMES_MAX: Final = 16


class MetricsFolder:
    """A folder of this process's own, gone with it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="tallystick-metrics-"))
        self._starts: Counter[int] = Counter()

    def __enter__(self) -> "MetricsFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def name(self, slot: int) -> str:
        """Return the name that the next worker of a slot writes under."""
        self._starts[slot] += 1
        return f"{slot}-{self._starts[slot] % NAMES_MAX}"

    def ended(self, name: str) -> None:
        """Forget what a worker that has ended said of the moment; what it counted stays."""
        for file in (*self.path.glob(f"gauge_live*_{name}.db"), self.path / HOT_FILE.format(identity=name)):
            file.unlink(missing_ok=True)

    def text(self) -> bytes:
        """Return all numbers of all workers together, in Prometheus's text format."""
        # Loaded by whom it concerns: it takes a tenth of a second.
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.path))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def hot_accounts(self) -> bytes:
        """Return the accounts with most transfers in the last few seconds, as JSON."""
        counts: Counter[tuple[int, str]] = Counter()
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
