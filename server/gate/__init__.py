"""Who may pass: API keys and their roles."""
