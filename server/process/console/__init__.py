"""The console of operators: what the server does now, look-ups, and actions, at `/console` of the admin port."""
