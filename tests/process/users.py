"""The kinds of users that a server is started by, for children of tests that run as root."""

import ctypes
import os
import sys
from collections.abc import Callable, Set
from pathlib import Path

import pytest

from server.process.embedded.account import CAP_DAC_OVERRIDE, Account, become, reaching
from server.process.embedded.binaries import postgres_bin

NOBODY = 65534
# As OpenShift runs a container: a number without a name, in the group of root.
NAMELESS = (12345, 0)
# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
# AUDIT_WRITE, SETFCAP: what Docker and Kubernetes leave to root.
DEFAULT_CONTAINER = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})
# More than there are.
CAPABILITIES = range(64)
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root of a Linux can become every kind of user"
)


def user(uid: int, gid: int, *, writes_everywhere: bool = True) -> Callable[[], None]:
    """
    Become a user, who reads this checkout and Python wherever they are.

    Where they are closed and root can open them in no other way, that user may write everywhere too; a test for which
    that is too much is left out.
    """
    python = Path(sys.executable)
    account = Account(uid, gid, foreign=True)
    able = reaching(account, Path(__file__), postgres_bin("postgres"), python, python.resolve())
    if able.capability == CAP_DAC_OVERRIDE and not writes_everywhere:
        pytest.skip("no other user of this system can read this checkout without writing everywhere")
    return become(able)


def root_with(kept: Set[int]) -> Callable[[], None]:
    """Stay root, with some capabilities and no way to more."""
    libc = ctypes.CDLL(None, use_errno=True)
    dropped = [number for number in CAPABILITIES if number not in kept]

    def drop() -> None:
        for number in dropped:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    return drop
