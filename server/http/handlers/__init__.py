"""Handlers, one file for each resource: they have the ledger do what a decoded call asks, and make the reply."""
