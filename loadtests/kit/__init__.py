"""
Virtual users of locust against a running ledger, and a check of what every one of them was promised.

`users`, `scenarios`, `load_shapes` and `locustfile` run inside locust, under gevent. All else is plain Python that
starts locust and judges what it left behind.
"""
