"""The default limits, as the settings give them."""

from server.gate.keys import Defaults
from server.gate.limits import Limit, read_rate
from server.settings import Settings, SettingsError


def default_limits(settings: Settings) -> Defaults:
    """
    Return the default limits of keys, and the limits of ledgers and network addresses.

    Raises:
        SettingsError: A rate is malformed, or cannot be counted exactly together with its burst.
    """
    key = _limit("", settings.rate, settings.burst)
    ledger = None if settings.ledger_rate is None else _limit("ledger_", settings.ledger_rate, settings.ledger_burst)
    failures = _limit("auth_failure_", settings.auth_failure_rate, settings.auth_failure_burst)
    anonymous = _limit("anonymous_", settings.anonymous_rate, settings.anonymous_burst)
    return Defaults(key, ledger, failures, anonymous, settings.concurrency)


def _limit(prefix: str, rate: str, burst: int) -> Limit:
    """Return the limit that the settings `<prefix>rate` and `<prefix>burst` give."""
    try:
        limit = Limit(*read_rate(rate), burst)
    except ValueError as error:
        raise SettingsError(f"{prefix}rate: {error}") from None
    if not limit.exact:
        raise SettingsError(f"{prefix}burst: too large for so slow a rate")
    return limit
