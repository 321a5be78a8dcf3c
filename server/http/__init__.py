"""
What callers see. `wire/` makes calls of bytes, `routes/` is the table of what there is, `handlers/` do what is asked,
and `pipeline.py` is the way of every request.
"""
