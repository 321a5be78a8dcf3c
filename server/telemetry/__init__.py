"""Logs, metrics, traces and failpoints. All packages may use this one; it uses none of them."""
