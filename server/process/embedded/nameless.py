"""
Makes an `initdb` for a user without a name, such as the one that OpenShift gives to a container.

`initdb` looks up the name of its user, prints it, and stops if there is none; so does `postgres --single`, which it
runs. Neither uses the name for anything else, and the server never looks it up. So this module makes copies of both
programs that call another function of the C library, which returns the first user of the system.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .account import Account
from .binaries import postgres_bin

# Names in the programs' tables of imported functions. Both have the same length, version and type of result.
ASKED, ANSWERED = b"\0getpwuid\0", b"\0getpwent\0"
PROGRAMS = ("initdb", "postgres")
FOLDER = "programs.new"


@contextlib.contextmanager
def initdb_for(account: Account, folder: Path) -> Iterator[Path]:
    """
    Yield the path of an `initdb` for `account`; copies of programs are in `folder` until the context ends.

    On other systems than Linux this is the package's own `initdb`, which needs a name: macOS does not run modified
    programs.
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
    """Copy the programs into a folder `place` that has the layout of their package, and return the path of `initdb`."""
    home = postgres_bin("initdb").parents[1]
    packages = home.parents[1]
    copy = place / home.relative_to(packages)
    for step in (place, copy.parent, copy, copy / "bin"):
        step.mkdir()
        # mkdir applies the umask, but the account must be able to enter.
        step.chmod(0o755)
    for name in ("lib", "share"):
        (copy / name).symlink_to(home / name)
    # The wheel keeps its libraries here.
    for libraries in packages.glob(f"{home.parent.name}.libs"):
        (place / libraries.name).symlink_to(libraries)
    for name in PROGRAMS:
        program = home / "bin" / name
        (copy / "bin" / name).write_bytes(program.read_bytes().replace(ASKED, ANSWERED))
        (copy / "bin" / name).chmod(program.stat().st_mode | 0o444)
    return copy / "bin" / "initdb"
