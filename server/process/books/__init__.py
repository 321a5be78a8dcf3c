"""Books as files: written from a ledger and read into one."""
