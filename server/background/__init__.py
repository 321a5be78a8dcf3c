"""Jobs that run without being asked for, only in the leader of a database's background processes."""
