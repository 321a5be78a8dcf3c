"""Sinks: brokers of operators, which are sent every event."""
