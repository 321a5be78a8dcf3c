"""
Programs that put load on a running ledger over HTTP; they never import the service.

All of them use the client in `client`, start servers with `servers` and `databases`, and end with `processes`.

`openloop` sends a load that does not wait: a fixed one, `make overload`, `connections`, `neighbour`; and it replays a
bank's books. `kit` are virtual users under Locust, `chaos` are clients while everything is broken: both write down a
`history`, whose checks say which promise was broken. `bench` measures it beside others, `peer` among them.
"""
