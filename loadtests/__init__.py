"""
Programs that put load on a running ledger over HTTP.

All of them use the client in `client`, start servers with `servers` and `databases` by `processes`, and show what came
of it with `figures` and `screen`. They never import the service, but for how it starts its databases.

`openloop` sends a load that does not wait: a fixed one, `make overload`, `connections`, `neighbour`; and it replays a
bank's books. `kit` are virtual users under Locust, `chaos` are clients while everything is broken. What both do is in
`payers`; both write down a `history`, whose checks say which promise was broken. `bench` measures it beside others,
`peer` among them.
"""
