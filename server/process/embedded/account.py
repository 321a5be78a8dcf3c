"""The user the servers run as: never root, because PostgreSQL refuses to be root."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import EmbeddedError

if sys.platform != "win32":
    import pwd

# Every Linux and macOS has this user; it owns nothing, so the servers can harm nothing.
UNPRIVILEGED_USER = "nobody"

# `test -x` on a few directories takes milliseconds; a network file system that hangs must not.
REACH_SECONDS = 10.0

# Prints the first of its arguments that the running user may not enter or execute.
REACH_SCRIPT = 'for path do [ -x "$path" ] || { printf %s "$path"; exit 1; }; done'


@dataclass(frozen=True)
class Account:
    """A user; `foreign` when a process of root has to become it."""

    uid: int
    gid: int
    name: str
    foreign: bool


def account_for(data_dir: Path) -> Account:
    """The user for the servers of `data_dir`: this one, or for root the directory's owner."""
    try:
        found = os.stat(data_dir)
    except FileNotFoundError:
        found = None
    uid = os.geteuid()
    if uid != 0:
        if found is not None and found.st_uid != uid:
            raise EmbeddedError(
                f"{data_dir} belongs to the user {_user_name(found.st_uid)}. Run as that user, or "
                "name a directory of your own with --data-dir."
            )
        return Account(uid, os.getegid(), _user_name(uid), foreign=False)
    if found is not None and found.st_uid != 0:
        return _account_of(found.st_uid, found.st_gid)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the user {UNPRIVILEGED_USER} is missing here. "
            "Run as an ordinary user."
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, foreign=True)


def require_reachable(path: Path, account: Account, remedy: str) -> None:
    """Refuse when `account` may not enter one of the directories above `path`."""
    if not account.foreign:
        return
    parents = [str(parent) for parent in reversed(path.parents)]
    blocked = _first_blocked(parents, account)
    if blocked:
        raise EmbeddedError(
            f"The servers run as the user {account.name}, because PostgreSQL does not run as root, "
            f"and that user may not enter {blocked}. {remedy}"
        )


def is_reachable(path: Path, account: Account) -> bool:
    """Whether `account` may enter `path` and everything above it."""
    steps = [str(step) for step in (*reversed(path.parents), path)]
    return not account.foreign or not _first_blocked(steps, account)


def _first_blocked(paths: Sequence[str], account: Account) -> str:
    # Asked of the system as that user: mode bits alone do not know access lists.
    try:
        result = subprocess.run(
            ["/bin/sh", "-c", REACH_SCRIPT, "sh", *paths],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=REACH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(
            f"Root could not become the user {account.name} here: {error}. Run as an ordinary user."
        ) from error
    return os.fsdecode(result.stdout)


def _account_of(uid: int, fallback_gid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(uid, fallback_gid, _user_name(uid), foreign=True)
    return Account(uid, entry.pw_gid, entry.pw_name, foreign=True)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"number {uid}"
