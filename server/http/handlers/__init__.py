"""Handlers, a file for each resource: what a decoded call asks of the ledger, and what it is answered."""
