"""The user the servers run as: never root, because PostgreSQL refuses to be root."""

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

# Root's servers on Linux: the first of these numbers without a name, so that no other program runs under it. systemd
# lists the range as unused, no Debian package has a number in it, and it is mapped in containers without root.
OWN_UIDS = range(60_800, 60_816)

# Root's servers elsewhere: macOS has this user, and runs no changed copy of a program (see nameless.py).
UNPRIVILEGED_USER = "nobody"

# Capabilities that let a process into directories that are closed to it, the smaller one first. The second one also
# allows writing; a container with default rights has it and does not have the first.
CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE = 2, 1
PASSING = (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if sys.platform == "linux" else ()

PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x2008_0522

# `test -x` on a few directories takes milliseconds; a network file system that hangs must not.
REACH_SECONDS = 10.0

# Prints the first of its arguments that the running user may not enter or execute.
REACH_SCRIPT = 'for path do [ -x "$path" ] || { printf %s "$path"; exit 1; }; done'


@dataclass(frozen=True)
class Account:
    """
    A user; `foreign` when this process is root and its children have to change to that user.

    `capability` is the right of root that it keeps to reach its files and programs, or None.
    """

    uid: int
    gid: int
    foreign: bool
    capability: int | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return _name_of(self.uid) or f"number {self.uid}"

    @property
    def nameless(self) -> bool:
        """Whether this system has no name for it."""
        return _name_of(self.uid) is None


def account_for(data_dir: Path) -> Account:
    """The user for the servers of `data_dir`: this one, or for root the directory's owner."""
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
            f"PostgreSQL does not run as root, and the user numbers {OWN_UIDS[0]} to {OWN_UIDS[-1]} all have names "
            "here. Run as an ordinary user."
        )
    return Account(own, _group_of(own, own), foreign=True)


def reaching(account: Account, *paths: Path) -> Account:
    """
    Return the account with the capability that it needs to enter all directories above `paths`, if it needs one.

    Raises:
        EmbeddedError: Root cannot become this user here, or cannot let it in.
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
            # Root itself has not got it.
            continue
    raise EmbeddedError(
        f"The servers run as the user {account.name}, because PostgreSQL does not run as root; that user may not enter "
        f"{closed}, and root cannot let it in here. Use a place like /opt, or run as an ordinary user."
    )


def is_reachable(path: Path, account: Account) -> bool:
    """Whether `account` may enter `path` and everything above it."""
    return not account.foreign or not _first_closed([str(step) for step in (*reversed(path.parents), path)], account)


def become(account: Account) -> Callable[[], None]:
    """
    Return a function that changes the user of a child of root to `account` for good, for `preexec_fn`.

    The function raises an OSError where this is not allowed.
    """
    capability = account.capability
    # Looked up before the fork: the child between fork and exec should only call it.
    libc = None if capability is None else ctypes.CDLL(None, use_errno=True)

    def change() -> None:
        if libc is not None:
            # Otherwise the change of user drops all capabilities, and access(2), with which PostgreSQL looks for its
            # own programs, ignores them.
            _check(libc.prctl(PR_SET_SECUREBITS, *map(ctypes.c_ulong, (SECBIT_NO_SETUID_FIXUP, 0, 0, 0))))
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        if libc is not None and capability is not None:
            # Effective, permitted and inheritable: this one, and none of the upper 32.
            header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
            _check(libc.capset(header, struct.pack("=6I", *(1 << capability,) * 3, 0, 0, 0)))
            _check(libc.prctl(PR_CAP_AMBIENT, *map(ctypes.c_ulong, (PR_CAP_AMBIENT_RAISE, capability, 0, 0))))

    return change


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _first_closed(paths: Sequence[str], account: Account) -> str:
    # Tried as that user: mode bits do not show access lists.
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
