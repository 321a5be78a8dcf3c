"""
The HTTP interface. `wire/` turns bytes into calls, `routes/` is the table of routes, `handlers/` do what a call asks,
and `pipeline.py` is the path of every request.
"""
