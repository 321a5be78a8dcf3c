"""
The same API written the usual way: FastAPI, SQLAlchemy, `limits` and redis-py, for `make bench` to compare with.

It keeps what matters: an API key looked up by its digest, a limit for each key, a row lock on both accounts, a unique
idempotency key in the transfer's own transaction, a cache in Redis that is invalidated after the commit. It leaves out
what the comparison does not touch: holds, bulk, statements, problem details, refusals that stay.
"""
