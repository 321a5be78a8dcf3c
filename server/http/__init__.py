"""The surface callers see: routes, requests, answers, problems."""
