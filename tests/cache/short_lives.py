"""`tallystick` with snapshots that live for a few seconds only: then the quarantine of a Redis is as short."""

import sys
from typing import Final

from server.store import keyspace

# Milliseconds a snapshot lives. In this time each worker must notice that Redis was restarted, on a busy machine too.
LIFE_MS: Final = 4_000

# Before anything else reads it: what is derived from it is short then, too.
keyspace.SNAPSHOT_MS = LIFE_MS  # type: ignore[misc]  # a constant everywhere else

if __name__ == "__main__":
    from server.cli import main

    sys.exit(main())
