"""Makes the parts of webhooks from the settings."""

from server.events.webhooks.addresses import Destinations
from server.events.webhooks.secrets import Vault
from server.settings import Settings, SettingsError


def read_destinations(settings: Settings) -> Destinations:
    """
    Return which addresses webhooks may be sent to.

    Raises:
        SettingsError: A network is not valid.
    """
    try:
        return Destinations(settings.webhook_private_networks)
    except ValueError as error:
        raise SettingsError(f"webhook_private_networks: {error}") from None


def make_vault(settings: Settings) -> Vault | None:
    """Return the vault of the endpoints' secrets; None if no key for them is configured."""
    return None if settings.webhook_key is None else Vault(settings.webhook_key)
