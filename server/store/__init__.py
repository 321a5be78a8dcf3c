"""What stands between the ledger and the network: pools, batches, statements, migrations."""
