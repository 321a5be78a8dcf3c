"""The operators' console at `/console` of the admin port: shows what the server does; has look-ups and actions."""
