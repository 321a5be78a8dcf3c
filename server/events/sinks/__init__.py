"""Sinks: the operators' message brokers, which are sent events."""
