"""Runs virtual users of locust against a running ledger, and checks what each of them was promised."""
