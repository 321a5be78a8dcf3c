"""
Programs that put load on a running ledger over HTTP.

Requests that are measured, or whose answers are judged byte for byte, are sent by `client`. Everything else, such as
opening accounts and reading the books, is done by `books` with `tallystick_client`. `servers` starts servers,
`databases` starts databases, and `processes` starts any program; `figures` and `screen` show the results. The service
is never imported, except for how it starts its databases.

`openloop` sends a load that does not wait for answers: at a fixed rate, and as `make overload`, `connections` and
`neighbour`; it also replays a bank's books. `kit` runs virtual users under Locust, `chaos` runs clients while
everything breaks. What both kinds of clients do is in `payers`; both write a `history`, whose checks say which promise
was broken. `bench` measures the service beside others, one of which is `peer`.
"""
