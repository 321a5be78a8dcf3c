"""Processes: the supervisor, its workers, the background leader and the embedded servers."""
