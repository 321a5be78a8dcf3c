"""Makes parts of the service from settings, and checks whether a service could be made with them."""

from typing import TYPE_CHECKING

from server.events.webhooks.configuration import read_destinations
from server.gate.default_limits import default_limits
from server.http.origins import read_origins
from server.http.wire.forwarded import TrustedProxies
from server.settings import Settings, SettingsError
from server.store.hosts import check_address
from server.telemetry.tallies import Tallies
from server.telemetry.trace import check_collector

if TYPE_CHECKING:
    from server.store.redis import Redis


def connect_redis(settings: Settings, tallies: Tallies) -> "Redis":
    """
    Return the client of Redis, which is not connected yet.

    Raises:
        SettingsError: The address has an unknown option, or an option with a wrong value.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415 -- most commands do without Redis

    from server.store.redis_cluster import connect  # noqa: PLC0415

    assert settings.redis_url is not None, "the caller decides between an address and the embedded server"
    try:
        return connect(settings.redis_url, settings.redis_timeout_ms / 1000, tallies.batches["redis"])
    except (ValueError, TypeError, RedisError):
        # The driver's message may hold a piece of the password.
        text = "an option after its ? is unknown or has an invalid value"
        raise SettingsError(f"redis_url: {text}") from None


def postgres_address(settings: Settings) -> str:
    """
    Return the address of Postgres.

    Raises:
        SettingsError: The address is not valid.
    """
    assert settings.database_url is not None, "the caller decides between an address and the embedded servers"
    try:
        check_address(settings.database_url)
    except ValueError as error:
        raise SettingsError(f"database_url: {error}") from None
    return settings.database_url


def trusted_proxies(settings: Settings) -> TrustedProxies:
    """
    Return the proxies whose X-Forwarded-For is believed.

    Raises:
        SettingsError: One is neither an address nor a network.
    """
    try:
        return TrustedProxies(settings.trusted_proxies)
    except ValueError as error:
        raise SettingsError(f"trusted_proxies: {error}") from None


def allowed_origins(settings: Settings) -> tuple[str, ...]:
    """
    Return the origins whose pages may read answers.

    Raises:
        SettingsError: One is not an origin, or no browser ever sends it.
    """
    try:
        return read_origins(settings.cors_origins)
    except ValueError as error:
        raise SettingsError(f"cors_origins: {error}") from None


def check_settings(settings: Settings) -> None:
    """
    Raise an error if no service could be made with the settings. Each value by itself was checked when it was read.

    Raises:
        SettingsError: As `create_app`, with the same messages.
    """
    default_limits(settings)
    trusted_proxies(settings)
    read_destinations(settings)
    allowed_origins(settings)
    check_collector(settings.otel_endpoint)
    if settings.database_url is not None:
        postgres_address(settings)
    if settings.redis_url is not None:
        connect_redis(settings, Tallies())
