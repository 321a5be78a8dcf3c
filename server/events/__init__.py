"""Events: the feed of what happened in each ledger, and the webhooks and sinks that are sent it."""
