"""Commands against a server: what they are called, what they take, and what they do."""
