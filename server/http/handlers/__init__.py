"""Handlers, one file for each resource: they turn a decoded call into work of the ledger and the result into a reply."""
