"""What a killed supervisor leaves behind is removed by the next one, and nothing else is."""

import os
import tempfile
from pathlib import Path

import pytest

from server.process.metrics_folder import MetricsFolder


def aged(folder: MetricsFolder) -> Path:
    """Make it an hour old."""
    os.utime(folder.path / "owner", (1.0, 1.0))
    return folder.path


def test_only_what_nobody_owns_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose owner has ended goes; one that is owned, one just made and a stranger's stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, young, owned = MetricsFolder(), MetricsFolder(), MetricsFolder()
    dead._lock.close()
    young._lock.close()
    (tmp_path / "tallystick-metrics-strange").mkdir()
    left_behind = aged(dead)
    aged(owned)
    with MetricsFolder() as own:
        assert not left_behind.exists()
        assert own.path.exists()
        assert young.path.exists()
        assert owned.path.exists()
        assert (tmp_path / "tallystick-metrics-strange").exists()
    assert not own.path.exists()
    owned.remove()
