"""
Programs that put load on a running ledger over HTTP.

What is measured or judged byte for byte is sent by `client`. All else, as opening accounts and reading the books, is
done with `tallystick_client` by `books`. Servers are started with `servers` and `databases` by `processes`; `figures`
and `screen` show what came of it. The service is never imported, but for how it starts its databases.

`openloop` sends a load that does not wait: a fixed one, `make overload`, `connections`, `neighbour`; and it replays a
bank's books. `kit` are virtual users under Locust, `chaos` are clients while everything is broken. What both do is in
`payers`; both write down a `history`, whose checks say which promise was broken. `bench` measures it beside others,
`peer` among them.
"""
