"""What callers see: connections, routes, handlers, problems and replies. `pipeline.py` is the way of a request."""
