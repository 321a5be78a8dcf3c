"""How the tests look at processes and their connections from outside, on Linux."""

from collections.abc import Iterator
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Return the processes that *pid* has started, or was given, dead ones that it has not noticed among them."""
    return [child for child, parent, _ in _processes() if parent == pid]


def zombies_of(pid: int) -> list[int]:
    """Return those that have ended without its notice."""
    return [child for child, parent, state in _processes() if parent == pid and state == "Z"]


def is_alive(pid: int) -> bool:
    """Say whether a process runs."""
    return any(process == pid and state not in "ZX" for process, _, state in _processes())


def peers_of(pid: int) -> set[int]:
    """Return the ports at the other ends of a process's TCP connections over IPv4."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(entry.readlink().name)
        except FileNotFoundError:
            continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[2].rpartition(":")[2], 16) for line in lines if f"socket:[{line[9]}]" in inodes}


def _processes() -> Iterator[tuple[int, int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything.
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        yield int(folder.name), int(parent), state


def said_of(pid: int, name: str) -> bytes:
    """Return what the system says of a process; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
