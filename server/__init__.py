"""Tallystick: a payments ledger over HTTP."""
