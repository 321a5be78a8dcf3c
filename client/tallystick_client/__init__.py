"""The Python client of the Tallystick payments ledger: it makes each payment once, however often it is retried."""

from msgspec import UNSET

from tallystick_client.about import Integrity, Ledger, Limits
from tallystick_client.accounts import AccountItem
from tallystick_client.administration import ApiKey, Deleted, Delivery, Undelivered, WebhookEndpoint, WebhookTest
from tallystick_client.answers import (
    Account,
    AccountResult,
    Entry,
    Event,
    EventPage,
    Hold,
    PastBalance,
    Posted,
    Problem,
    Results,
    Statement,
    Transfer,
    TransferResult,
    TrialBalance,
)
from tallystick_client.clients import AsyncTallystick, Tallystick
from tallystick_client.errors import (
    AddressError,
    OutcomeUnknownError,
    ProblemError,
    RefusedError,
    TallystickError,
    UnavailableError,
    WebhookError,
)
from tallystick_client.request import new_key
from tallystick_client.transfers import Conditions, FollowUp, TransferItem
from tallystick_client.webhooks import verify_webhook

__all__ = [
    "UNSET",
    "Account",
    "AccountItem",
    "AccountResult",
    "AddressError",
    "ApiKey",
    "AsyncTallystick",
    "Conditions",
    "Deleted",
    "Delivery",
    "Entry",
    "Event",
    "EventPage",
    "FollowUp",
    "Hold",
    "Integrity",
    "Ledger",
    "Limits",
    "OutcomeUnknownError",
    "PastBalance",
    "Posted",
    "Problem",
    "ProblemError",
    "RefusedError",
    "Results",
    "Statement",
    "Tallystick",
    "TallystickError",
    "Transfer",
    "TransferItem",
    "TransferResult",
    "TrialBalance",
    "UnavailableError",
    "Undelivered",
    "WebhookEndpoint",
    "WebhookError",
    "WebhookTest",
    "new_key",
    "verify_webhook",
]
