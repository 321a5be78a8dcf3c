"""
Set-up trusts only installations that were completed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE_PIP = """
import pathlib, sys
if __name__ == "__main__":
    venv = pathlib.Path(__file__).parents[3]
    with (venv / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\\n")
    if (venv / "break").exists():
        sys.exit("no such package")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """
    A checkout whose virtual environments have a pip that only records its calls.
    """
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "client").mkdir()
    shutil.copy(ROOT / "client" / "pyproject.toml", tmp_path / "client")
    (tmp_path / "scripts").mkdir()
    for name in ("bootstrap.py", "make_venv.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for name in (".venv", ".venv-load", ".venv-peer"):
        venv = tmp_path / name
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        (packages,) = (venv / "lib").glob("*/site-packages")
        (packages / "pip.py").write_text(FAKE_PIP)
    return tmp_path


def setup(checkout: Path, level: str = "run") -> tuple[int, str, list[str]]:
    """
    Run the set-up; return its exit code, its output, and its calls of pip.
    """
    apart = {"locust": ".venv-load", "peer": ".venv-peer", "bench": ".venv-peer"}
    calls = checkout / apart.get(level, ".venv") / "calls"
    calls.unlink(missing_ok=True)
    command = [sys.executable, str(checkout / "scripts" / "bootstrap.py"), level]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    made = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, done.stdout + done.stderr, made


def test_second_run_does_nothing(checkout: Path) -> None:
    """
    A level that is installed is not installed again, nor is a smaller one.
    """
    code, _, calls = setup(checkout, "test")
    assert code == 0
    assert ["--require-hashes" in call for call in calls] == [True, False]
    assert ["--no-index" in call for call in calls] == [False, True]
    assert setup(checkout, "test") == (0, "", [])
    assert setup(checkout, "run") == (0, "", [])


def test_larger_level_is_installed(checkout: Path) -> None:
    """
    If a smaller level is installed, a larger one is still installed.
    """
    setup(checkout, "run")
    _, _, calls = setup(checkout, "test")
    assert len(calls) == 2


def test_locust_is_apart(checkout: Path) -> None:
    """
    Locust and its gevent get a separate virtual environment without the project; neither environment replaces the
    other.
    """
    setup(checkout, "test")
    code, _, calls = setup(checkout, "locust")
    assert code == 0
    (call,) = calls
    assert "--require-hashes" in call
    assert "locust.txt" in call
    assert setup(checkout, "locust") == (0, "", [])
    assert setup(checkout, "test") == (0, "", [])
    everything = (checkout / "requirements" / "dev.txt").read_text()
    assert "gevent==" not in everything


def test_the_peer_is_apart(checkout: Path) -> None:
    """
    The benchmark's peer gets a separate environment; plotting packages are added to it when they are asked for.
    """
    setup(checkout, "test")
    _, _, (call,) = setup(checkout, "peer")
    assert "peer.txt" in call
    assert "plots.txt" not in call
    _, _, (call,) = setup(checkout, "bench")
    assert "peer.txt" in call
    assert "plots.txt" in call
    assert setup(checkout, "peer") == (0, "", [])
    everything = (checkout / "requirements" / "dev.txt").read_text()
    assert "fastapi==" not in everything
    assert "matplotlib==" not in everything


def test_changed_lock_is_installed(checkout: Path) -> None:
    """
    A changed lock is installed again.
    """
    setup(checkout)
    with (checkout / "requirements" / "embedded.txt").open("a") as lock:
        lock.write("# changed\n")
    _, _, calls = setup(checkout)
    assert len(calls) == 2


def test_failed_install_is_not_believed(checkout: Path) -> None:
    """
    A failure is reported with pip's reason, and the next run installs everything again.
    """
    mark = checkout / ".venv" / "break"
    mark.touch()
    code, said, _ = setup(checkout)
    assert code == 1
    assert "no such package" in said

    mark.unlink()
    code, said, calls = setup(checkout)
    assert code == 0
    assert "cut short" in said
    assert "--force-reinstall" in calls[0]
    assert setup(checkout) == (0, "", [])


def test_missing_ensurepip_is_said_plainly(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without ensurepip, uv and virtualenv, the message says what to install.
    """
    shutil.rmtree(checkout / ".venv")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "ensurepip.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    monkeypatch.setenv("PATH", str(hidden))
    code, said, _ = setup(checkout)
    assert code == 1
    assert "apt install python3-venv" in said
    assert not (checkout / ".venv").exists()
