"""
PostgreSQL and Valkey from two Python packages, for a machine that has neither.

`servers.EmbeddedServers.open(data_dir)` finds or starts them. Nothing listens on a network, nothing is
written outside the data directory, and on Linux no server outlives the process that started it.
"""
