"""
PostgreSQL and Valkey from two Python packages, for a machine that has neither.

`EmbeddedServers.open(data_dir)` finds or starts them. Nothing listens on a network, nothing is
written outside the data directory, and on Linux no server outlives the process that started it.
"""

from .binaries import postgres_bin, valkey_bin
from .errors import EmbeddedError
from .servers import EmbeddedServers

__all__ = ["EmbeddedError", "EmbeddedServers", "postgres_bin", "valkey_bin"]
