"""All routes in one table: what the dispatcher, the OpenAPI document and the tests read."""

from typing import Final

from server.http.route import Route
from server.http.routes.accounts import ACCOUNTS
from server.http.routes.api_keys import API_KEYS
from server.http.routes.events import EVENTS
from server.http.routes.ledger import LEDGER
from server.http.routes.service import SERVICE
from server.http.routes.transfers import TRANSFERS
from server.http.routes.webhooks import WEBHOOKS

ROUTES: Final[tuple[Route, ...]] = (*ACCOUNTS, *TRANSFERS, *EVENTS, *WEBHOOKS, *API_KEYS, *LEDGER, *SERVICE)
