"""Who may pass, and how often: API keys, roles and rate limits. The cache is read together with the tokens."""
