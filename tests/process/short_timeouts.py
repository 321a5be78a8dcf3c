"""`tallystick serve` that waits three seconds for a sign of life instead of ten."""

import sys

from server.process.commands.serve import serve
from server.process.timeouts import TIMEOUTS
from server.settings import load

SILENCE_SECONDS = 3.0


def main() -> None:
    overrides = dict(zip(("port",), sys.argv[3:], strict=True))
    sys.exit(serve(load(overrides=overrides), load, TIMEOUTS._replace(silence=SILENCE_SECONDS)))


if __name__ == "__main__":
    main()
