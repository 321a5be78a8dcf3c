"""Commands that call a server: their names, their arguments and their work."""
