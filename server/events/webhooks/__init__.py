"""Webhooks: endpoints that callers name are sent the events of their ledger, signed, until each has arrived."""
