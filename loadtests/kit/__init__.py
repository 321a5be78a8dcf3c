"""Virtual users of locust against a running ledger, and a check of what every one of them was promised."""
