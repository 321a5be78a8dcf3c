"""The Python client of the Tallystick payments ledger."""
