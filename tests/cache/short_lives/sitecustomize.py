"""Python imports this at its start if the folder is on PYTHONPATH: it sets the life of snapshots to SNAPSHOT_MS."""

import os

from server.store import keyspace

# Set before other modules read it, so that values derived from it, such as the quarantine of a Redis, are as short.
keyspace.SNAPSHOT_MS = int(os.environ["SNAPSHOT_MS"])  # type: ignore[misc]  # a constant everywhere else
