"""Clients, seeded faults of every part under them, and a check of all that the clients were promised: `make chaos`."""
