"""Connections: from the bytes of a client to a call, and from a reply back to bytes."""
