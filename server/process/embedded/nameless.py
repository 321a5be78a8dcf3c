"""
`initdb` for a user without a name, such as the one that OpenShift gives to a container.

`initdb` asks for the name of its user, prints it, and refuses to go on without one; so does `postgres --single`, which
it runs. Neither uses it otherwise, and the server itself never asks. So a copy of both calls another function of the C
library instead, which gives the first user there is.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .account import Account
from .binaries import postgres_bin

# Names in the programs' table of functions to be linked: of equal length and version, and with the same result.
ASKED, ANSWERED = b"\0getpwuid\0", b"\0getpwent\0"
PROGRAMS = ("initdb", "postgres")
FOLDER = "programs.new"


@contextlib.contextmanager
def initdb_for(account: Account, folder: Path) -> Iterator[Path]:
    """
    Give the path of an `initdb` for `account`; `folder` takes copies of programs until the end.

    Elsewhere than on Linux it is the one of the package, which wants a name: macOS runs no changed copy of a program.
    """
    if not account.nameless or sys.platform != "linux":
        yield postgres_bin("initdb")
        return
    place = folder / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    try:
        yield _copy(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _copy(place: Path) -> Path:
    """Make the folder `place` look to the copies as their own does to the originals."""
    home = postgres_bin("initdb").parents[1]
    packages = home.parents[1]
    copy = place / home.relative_to(packages)
    for step in (place, copy.parent, copy, copy / "bin"):
        step.mkdir()
        # Whatever the umask is: the account has to enter.
        step.chmod(0o755)
    for name in ("lib", "share"):
        (copy / name).symlink_to(home / name)
    # Where the wheel's builder put the libraries.
    for libraries in packages.glob(f"{home.parent.name}.libs"):
        (place / libraries.name).symlink_to(libraries)
    for name in PROGRAMS:
        program = home / "bin" / name
        (copy / "bin" / name).write_bytes(program.read_bytes().replace(ASKED, ANSWERED))
        (copy / "bin" / name).chmod(program.stat().st_mode | 0o444)
    return copy / "bin" / "initdb"
