"""The parts of webhooks as the settings have them."""

from server.events.webhooks.addresses import Destinations
from server.events.webhooks.secrets import Vault
from server.settings import Settings, SettingsError


def read_destinations(settings: Settings) -> Destinations:
    """
    Return where webhooks may go.

    Raises:
        SettingsError: A network is none.
    """
    try:
        return Destinations(settings.webhook_private_networks)
    except ValueError as error:
        raise SettingsError(f"webhook_private_networks: {error}") from None


def make_vault(settings: Settings) -> Vault | None:
    """Return what reads the secrets of endpoints; None where there is no key for them."""
    return None if settings.webhook_key is None else Vault(settings.webhook_key)
