"""Python imports this when it starts, if the folder is on PYTHONPATH: snapshots live as long as SNAPSHOT_MS says."""

import os

from server.store import keyspace

# Before anything else reads it, so that what is derived from it, such as the quarantine of a Redis, is as short.
keyspace.SNAPSHOT_MS = int(os.environ["SNAPSHOT_MS"])  # type: ignore[misc]  # a constant everywhere else
