"""Every refusal of the embedded servers says what is wrong and what to do."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.process.embedded.account import CAP_DAC_OVERRIDE
from server.process.embedded.binaries import postgres_bin, valkey_bin
from server.process.embedded.errors import EmbeddedError
from server.process.embedded.servers import EmbeddedServers
from tests.process.embedded_helpers import psql, valkey
from tests.process.embedded_parent import ROOT, Parent, installed_packages
from tests.process.users import DEFAULT_CONTAINER, NOBODY, needs_root, root_with, user


def refusal(data_dir: Path) -> str:
    with pytest.raises(EmbeddedError) as caught, EmbeddedServers.open(data_dir):
        pass
    return str(caught.value)


def put_programs(packages: Path, mode: int) -> None:
    """Packages with the servers' programs in their places, which are empty files."""
    home = installed_packages()
    for program in (postgres_bin("initdb"), postgres_bin("postgres"), valkey_bin()):
        name = program.relative_to(home)
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).touch(mode)
        (packages / name).chmod(mode)


def test_foreign_files(place: Path) -> None:
    """
    A directory with files of somebody else is refused, and nothing in it changes.
    """
    (place / "data").mkdir(mode=0o750)
    (place / "data/thesis.txt").touch()
    before = (place / "data").stat()
    assert "not Tallystick's, such as thesis.txt. Name an empty" in refusal(place / "data")
    after = (place / "data").stat()
    assert os.listdir(place / "data") == ["thesis.txt"]
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)


def test_an_empty_directory_is_taken(place: Path) -> None:
    """
    An empty directory is used, a fresh file system's lost+found counting as nothing.
    """
    (place / "data/lost+found").mkdir(parents=True)
    with EmbeddedServers.open(place / "data", postgres=False) as servers:
        assert valkey(servers.redis_url, "PING") == "+PONG\r\n"
    assert (place / "data").stat().st_mode & 0o777 == 0o700


def test_other_version(data: Path) -> None:
    """
    Data of another PostgreSQL is named with its version and left alone.
    """
    (data / "postgres/PG_VERSION").write_text("16\n")
    said = refusal(data)
    assert "was made by PostgreSQL 16, and this is PostgreSQL 18" in said
    assert "pg_dump of version 16" in said


def test_a_file_in_the_way(place: Path) -> None:
    """
    A file where the data directory should be is named.
    """
    (place / "data").touch()
    assert "data is a file where a directory is needed" in refusal(place / "data")
    assert "data is a file where a directory is needed" in refusal(place / "data/deeper")


def test_a_start_that_fails_quotes_the_server(data: Path) -> None:
    """
    For a cause we do not know the message ends with the server's own last words.
    """
    (data / "postgres/postgresql.auto.conf").write_text("no_such_setting = 1\n")
    said = refusal(data)
    assert "PostgreSQL ended while it started" in said
    assert 'unrecognized configuration parameter "no_such_setting"' in said


def test_missing_packages(place: Path) -> None:
    """
    Without the packages of the servers the two ways out are named, and nothing is made.
    """
    parent = Parent(place / "data", packages=place)
    said = parent.answer()["error"]
    parent.finish()
    assert "`make setup`, or set TALLYSTICK_DATABASE_URL" in said
    assert not (place / "data").exists()


@pytest.mark.parametrize(
    ("pretence", "name"),
    [
        pytest.param(
            "del signal.SIGKILL, signal.SIGQUIT; sys.modules.update(fcntl=None, pwd=None); sys.platform = 'win32'",
            "Windows",
            id="Windows",
        ),
        pytest.param("os.confstr = lambda name: None", "a Linux with musl (Alpine)", id="musl"),
    ],
)
def test_other_systems(place: Path, pretence: str, name: str) -> None:
    """
    Where the packages bring no servers the way out is named, though modules of Unix are missing.
    """
    program = f"""
import asyncpg, os, pathlib, signal, subprocess, sys, tempfile
{pretence}
from server.process.embedded.errors import EmbeddedError
from server.process.embedded.servers import EmbeddedServers
try:
    EmbeddedServers.open(pathlib.Path(sys.argv[1]))
except EmbeddedError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(place / "data")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = f"There is no embedded server for {name}. Set TALLYSTICK_DATABASE_URL to a server of your own.\n"
    assert ran.stdout == expected


@needs_root
@pytest.mark.parametrize(
    ("mode", "name", "expected"),
    [
        pytest.param(0o755, "data", "belongs to the user root. Run as", id="of somebody else"),
        pytest.param(0o755, "data/new", "is not writable by this user", id="not writable"),
        pytest.param(0o700, "data/new", "is not writable by this user", id="not to be entered"),
    ],
)
def test_a_directory_of_somebody_else(place: Path, mode: int, name: str, expected: str) -> None:
    """
    An ordinary user is told whose directory it is, or that it may not be written to.
    """
    place.chmod(0o755)
    (place / "data").mkdir(mode=mode)
    parent = Parent(place / name, change_user=user(NOBODY, NOBODY, writes_everywhere=False))
    assert expected in parent.answer()["error"]
    parent.finish()


@needs_root
def test_root_without_the_right_to_let_it_in(place: Path) -> None:
    """
    Where root has no capability that leads through a closed directory, it is named, and stays as it is.
    """
    (place / "closed/inner").mkdir(parents=True)
    (place / "closed").chmod(0o700)
    place.chmod(0o755)
    parent = Parent(place / "closed/inner/data", change_user=root_with(DEFAULT_CONTAINER - {CAP_DAC_OVERRIDE}))
    said = parent.answer()["error"]
    parent.finish()
    assert f"may not enter {place}/closed, and root cannot let it in here. Use a place like /opt" in said
    assert (place / "closed").stat().st_mode & 0o777 == 0o700
    assert (place / "closed/inner").stat().st_uid == 0


def test_programs_that_do_not_run(place: Path) -> None:
    """
    A program that the system does not run is named, with the way out.
    """
    put_programs(place / "packages", 0o644)
    parent = Parent(place / "data", packages=place / "packages")
    said = parent.answer()["error"]
    parent.finish()
    assert "bin/initdb cannot be run as the user" in said
    assert "Permission denied. Run `make setup` again" in said


def full_disk(place: Path, size: str) -> contextlib.ExitStack:
    """A very small file system at `place`/disk, gone again when the stack is closed."""
    disk = place / "disk"
    disk.mkdir()
    stack = contextlib.ExitStack()
    options = f"size={size},mode=0755"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    # PostgreSQL's logger keeps its file open for a moment after the server has ended.
    stack.callback(lambda: subprocess.run(["umount", "--lazy", disk], check=True))
    return stack


@needs_root
@pytest.mark.parametrize("size", ["4k", "1m", "20m", "34m"])
def test_a_disk_too_small(place: Path, size: str) -> None:
    """
    A disk that fills up while the database is made is named as the cause, however far it came.
    """
    with full_disk(place, size):
        assert f"The disk that holds {place}/disk/data is full." in refusal(place / "disk/data")


@needs_root
def test_a_disk_full_at_start(place: Path) -> None:
    """
    A disk that filled up since the last run is named as the cause, and freeing it is enough.
    """
    with full_disk(place, "120m"):
        EmbeddedServers.open(place / "disk/data").close()
        with contextlib.suppress(OSError), (place / "disk/filler").open("wb", 0) as filler:
            while filler.write(b"\0" * 65_536):
                pass
        assert f"The disk that holds {place}/disk/data is full." in refusal(place / "disk/data")
        (place / "disk/filler").unlink()
        with EmbeddedServers.open(place / "disk/data") as servers:
            assert psql(servers.database_url, "SELECT 1") == "1"
