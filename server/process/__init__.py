"""Processes: the supervisor, its workers, the commands and the embedded servers."""
