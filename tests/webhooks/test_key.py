"""The key that encrypts webhook secrets: which values are valid, and the key of the embedded servers."""

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from server.checked_settings import check_settings
from server.process.commands.supervise import child_values
from server.process.commands.target import Target
from server.process.commands.webhook_key import KEY_FILE, webhook_key
from server.settings import SettingsError, load
from tests.support.service import WEBHOOK_KEY
from tests.webhooks.conftest import OTHER_KEY


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The key file is readable only by its owner, and the key is the same at the next start."""
    key = webhook_key(tmp_path)
    assert Fernet(key).decrypt(Fernet(key).encrypt(b"secret")) == b"secret"
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert webhook_key(tmp_path) == key
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize(
    ("embedded", "given", "made"),
    [
        pytest.param(True, {}, True, id="embedded servers have one"),
        pytest.param(True, {"TALLYSTICK_WEBHOOK_KEY": WEBHOOK_KEY}, False, id="one that is given comes first"),
        pytest.param(False, {}, False, id="others have none"),
    ],
)
def test_who_is_given_it(tmp_path: Path, embedded: bool, given: dict[str, str], made: bool) -> None:
    """With embedded servers, workers and the background process get the key of the data directory."""
    loaded = load({**given, "TALLYSTICK_DATA_DIR": str(tmp_path)})
    values = child_values(loaded, Target("postgresql://db", "redis://cache", embedded), 1)
    expected = webhook_key(tmp_path) if made else given.get("TALLYSTICK_WEBHOOK_KEY")
    assert values.get("webhook_key") == expected


@pytest.mark.parametrize("key", ["short", WEBHOOK_KEY[:-1], f"{WEBHOOK_KEY},", f"{WEBHOOK_KEY} {OTHER_KEY}", "=" * 44])
def test_what_is_no_key(key: str) -> None:
    """An invalid key is refused at the start, and the message does not repeat it."""
    with pytest.raises(SettingsError, match="webhook_key cannot have the value") as caught:
        load({"TALLYSTICK_WEBHOOK_KEY": key})
    assert key not in str(caught.value)
    assert load({"TALLYSTICK_WEBHOOK_KEY": f"{WEBHOOK_KEY},{OTHER_KEY}"}).settings.webhook_key is not None


def test_what_is_no_network() -> None:
    """An invalid network is refused by the check of the settings."""
    with pytest.raises(SettingsError, match=r"^webhook_private_networks: '10.0.0.0/33'"):
        check_settings(load({"TALLYSTICK_WEBHOOK_PRIVATE_NETWORKS": "10.0.0.0/33"}).settings)
