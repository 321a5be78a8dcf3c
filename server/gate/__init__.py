"""API keys, roles and rate limits. The gate takes tokens and reads the cache in one round trip."""
