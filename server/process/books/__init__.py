"""Books as files: exported from a ledger and imported into one."""
