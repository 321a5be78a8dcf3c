"""Records what clients sent and heard as it happens, and checks the history for what must never happen."""
