"""Webhooks: endpoints that callers choose are sent the events of their ledger, signed, with retries for three days."""
