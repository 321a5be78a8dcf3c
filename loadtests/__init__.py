"""Programs that put load on a running ledger over HTTP; they never import the service."""
