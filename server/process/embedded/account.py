"""Chooses the user that the servers run as: never root, because PostgreSQL refuses to run as root."""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import EmbeddedError

if sys.platform != "win32":
    import pwd

# On Linux, servers started by root run under the first of these numbers that has no name, so that they share it with no
# other program. systemd lists the range as unused, no Debian package uses it, and rootless containers map it.
OWN_UIDS = range(60_800, 60_816)

# Elsewhere, servers started by root run as this user: macOS has it, and macOS does not run the modified programs that a
# user without a name needs (see nameless.py).
UNPRIVILEGED_USER = "nobody"

# Capabilities that let a process enter directories that are closed to it, the smaller one first. The second one also
# allows writing; a container with default rights has only the second.
CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE = 2, 1
PASSING = (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if sys.platform == "linux" else ()

PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x2008_0522

# `test -x` on a few directories takes milliseconds; this bounds the wait on a network file system that hangs.
REACH_SECONDS = 10.0

# Prints the first of its arguments that its user may not enter or execute.
REACH_SCRIPT = 'for path do [ -x "$path" ] || { printf %s "$path"; exit 1; }; done'


@dataclass(frozen=True)
class Account:
    """
    A user; `foreign` if this process is root and its children have to change to that user.

    `capability` is the capability of root that the user keeps to reach its files and programs, or None.
    """

    uid: int
    gid: int
    foreign: bool
    capability: int | None = None

    @property
    def name(self) -> str:
        """The user's name in messages."""
        return _name_of(self.uid) or f"number {self.uid}"

    @property
    def nameless(self) -> bool:
        """Whether this system has no name for the user."""
        return _name_of(self.uid) is None


def account_for(data_dir: Path) -> Account:
    """
    Return the user for the servers of `data_dir`.

    It is the current user. For root it is the owner of the directory, or an unprivileged user if root owns the
    directory or it does not exist.
    """
    try:
        found = os.stat(data_dir)
    except FileNotFoundError:
        found = None
    uid = os.geteuid()
    if uid != 0:
        account = Account(uid, os.getegid(), foreign=False)
        if found is not None and found.st_uid != uid:
            raise EmbeddedError(
                f"{data_dir} belongs to the user {Account(found.st_uid, 0, foreign=True).name}. Run as that user, or "
                "name a directory of your own with --data-dir."
            )
        return account
    if found is not None and found.st_uid != 0:
        return Account(found.st_uid, _group_of(found.st_uid, found.st_gid), foreign=True)
    if sys.platform == "linux":
        own = next((number for number in OWN_UIDS if _name_of(number) is None), None)
    else:
        own = pwd.getpwnam(UNPRIVILEGED_USER).pw_uid
    if own is None:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the user numbers {OWN_UIDS[0]} to {OWN_UIDS[-1]} all belong to "
            "named users here. Run as an ordinary user."
        )
    return Account(own, _group_of(own, own), foreign=True)


def reaching(account: Account, *paths: Path) -> Account:
    """
    Return `account`, with a capability if it needs one to enter all directories above `paths`.

    Raises:
        EmbeddedError: Root cannot become this user here, or no capability lets the user in.
    """
    if not account.foreign:
        return account
    steps = list(dict.fromkeys(str(step) for path in paths for step in reversed(path.parents)))
    closed = _first_closed(steps, account)
    if not closed:
        return account
    for capability in PASSING:
        able = replace(account, capability=capability)
        try:
            if not _first_closed(steps, able):
                return able
        except EmbeddedError:
            # Root itself does not have this capability.
            continue
    raise EmbeddedError(
        f"The servers run as the user {account.name}, because PostgreSQL does not run as root; that user may not enter "
        f"{closed}, and root cannot let it in here. Use a place like /opt, or run as an ordinary user."
    )


def is_reachable(path: Path, account: Account) -> bool:
    """Return whether `account` may enter `path` and all directories above it."""
    return not account.foreign or not _first_closed([str(step) for step in (*reversed(path.parents), path)], account)


def become(account: Account) -> Callable[[], None]:
    """
    Return a function for `preexec_fn` that permanently changes the user of a child of root to `account`.

    The function raises an OSError if this is not allowed.
    """
    capability = account.capability
    # Load the library before the fork: between fork and exec the child should only call it.
    libc = None if capability is None else ctypes.CDLL(None, use_errno=True)

    def change() -> None:
        if libc is not None:
            # Without this the change of user drops all capabilities, and access(2), which PostgreSQL uses to find its
            # own programs, ignores them.
            _check(libc.prctl(PR_SET_SECUREBITS, *map(ctypes.c_ulong, (SECBIT_NO_SETUID_FIXUP, 0, 0, 0))))
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        if libc is not None and capability is not None:
            # Effective, permitted and inheritable: only this capability, and none of the upper 32.
            header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
            _check(libc.capset(header, struct.pack("=6I", *(1 << capability,) * 3, 0, 0, 0)))
            _check(libc.prctl(PR_CAP_AMBIENT, *map(ctypes.c_ulong, (PR_CAP_AMBIENT_RAISE, capability, 0, 0))))

    return change


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _first_closed(paths: Sequence[str], account: Account) -> str:
    # Try it as that user, because mode bits do not show access control lists.
    try:
        result = subprocess.run(
            ["/bin/sh", "-c", REACH_SCRIPT, "sh", *paths],
            preexec_fn=become(account),
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=REACH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"Root could not become the user {account.name} here. Run as an ordinary user.") from error
    return os.fsdecode(result.stdout)


def _group_of(uid: int, fallback: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return fallback


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
