"""
Runs PostgreSQL and Valkey from two Python packages, on a machine that has neither.

`servers.EmbeddedServers.open(data_dir)` finds or starts the servers. They do not listen on a network and write only
below the data directory; if its path is too long, their sockets are in a temporary directory. On Linux no server
outlives the process that started it.
"""
