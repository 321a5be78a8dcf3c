"""
Make the virtual environment of one level with its locked packages, or do nothing if it is complete.

Most levels are in `.venv`. Others are kept apart from the service: `locust` in `.venv-load`, because of gevent;
`contract`, which checks a server against its OpenAPI document, in `.venv-contract`; `docs` in `.venv-docs`; `peer`, the
system that the benchmark compares with, and `bench`, which draws its plots, in `.venv-peer`.

bootstrap.py starts this script, which uses the standard library only. Every package is checked against its hash in
requirements/*.txt. A stamp is written only when a level is complete, so that an interrupted install does not count as
complete.
"""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# The lock files of each level. `test` includes everything in `.venv`, so it stands for the two other levels there.
LEVELS = {
    "run": ("embedded", "cli", "build"),
    "load": ("load", "sinks", "cli", "build"),
    "test": ("dev",),
    "locust": ("locust",),
    "contract": ("contract",),
    "docs": ("docs",),
    "peer": ("peer",),
    "bench": ("peer", "plots"),
}
STANDS_FOR = {
    "run": ("run", "load", "test"),
    "load": ("load", "test"),
    "test": ("test",),
    "locust": ("locust",),
    "contract": ("contract",),
    "docs": ("docs",),
    "peer": ("peer", "bench"),
    "bench": ("bench",),
}
# The levels that are not in `.venv`, and where they are.
APART = {
    "locust": ".venv-load",
    "contract": ".venv-contract",
    "docs": ".venv-docs",
    "peer": ".venv-peer",
    "bench": ".venv-peer",
}
# The projects of this checkout that are installed in `.venv`: the service, and the Python client that its command line
# uses.
PROJECTS = (ROOT, ROOT / "client")

PYTHON_MIN = (3, 11)  # for a .venv that already exists; bootstrap.py checks the Python that runs this
OUTPUT_LINES_MAX = 40  # of a failed command: enough for pip's reason

NO_ENSUREPIP = """\
This Python has no `ensurepip`, so it cannot make a virtual environment by itself.
  Debian, Ubuntu:   apt install python3-venv
  anywhere:         put `uv` or `virtualenv` on PATH
Then run the same command again."""


class SetupFailed(Exception):
    """
    An error that only a person can fix; the message says how.
    """


class Venv(NamedTuple):
    """
    A virtual environment of this checkout; *with_project* says whether the project itself is installed in it.
    """

    folder: Path
    with_project: bool

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def state(self) -> Path:
        return self.folder / ".tallystick"

    @property
    def unfinished(self) -> Path:
        return self.state / "unfinished"

    def stamp_file(self, level: str) -> Path:
        return self.state / f"{level}.sha256"


def venv_of(level: str) -> Venv:
    if level in APART:
        return Venv(ROOT / APART[level], with_project=False)
    return Venv(ROOT / ".venv", with_project=True)


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def stamp_of(level: str) -> str:
    """
    Return a hash of everything that an install of *level* depends on: place, Python, locks, metadata.
    """
    venv = venv_of(level)
    digest = hashlib.sha256(f"{ROOT} {venv.python.resolve()}".encode())
    projects = [project / "pyproject.toml" for project in PROJECTS] if venv.with_project else []
    for path in (*lock_files(level), *projects, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def lock_files(level: str) -> list[Path]:
    return [ROOT / "requirements" / f"{name}.txt" for name in LEVELS[level]]


def is_complete(level: str) -> bool:
    """
    Return whether *level*, or a level that includes it, is installed and nothing has changed since.
    """
    venv = venv_of(level)
    if venv.unfinished.exists() or not venv.python.exists():
        return False
    stamps = {name: venv.stamp_file(name) for name in STANDS_FOR[level]}
    return any(file.exists() and file.read_text() == stamp_of(name) for name, file in stamps.items())


@contextmanager
def only_one() -> Iterator[None]:
    """
    Let only one set-up of this checkout run at a time; others wait, and then find it done.
    """
    with (ROOT / "pyproject.toml").open() as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout is running; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def is_usable(venv: Venv) -> bool:
    """
    Return whether a virtual environment has a working pip and a new enough Python, and is still where it was made.
    """
    if (venv.state / "making").exists():
        return False
    made_in = venv.state / "made_in"
    if made_in.exists() and made_in.read_text() != str(ROOT):
        return False
    check = f"import pip, sys; sys.exit(sys.version_info < {PYTHON_MIN})"
    return venv.python.exists() and works(str(venv.python), "-c", check)


def venv_command(folder: Path) -> list[str]:
    """
    Return the command that makes the virtual environment: the standard library, or else uv or virtualenv.
    """
    if works(sys.executable, "-c", "import ensurepip, venv"):
        return [sys.executable, "-m", "venv", str(folder)]
    if shutil.which("uv"):
        same = ["--python", sys.executable]
        return ["uv", "venv", "--quiet", "--seed", "--allow-existing", *same, str(folder)]
    if shutil.which("virtualenv"):
        return ["virtualenv", "--quiet", "--python", sys.executable, str(folder)]
    raise SetupFailed(NO_ENSUREPIP)


def make(venv: Venv) -> None:
    """
    Make an empty virtual environment; a mark inside it stays until it is complete.
    """
    name = venv.folder.name
    command = venv_command(venv.folder)
    if venv.folder.exists():
        say(f"the {name} here is unfinished, moved, or its Python is gone; making it anew")
        shutil.rmtree(venv.folder)
    say(f"making {name} with Python " + ".".join(map(str, sys.version_info[:3])))
    venv.state.mkdir(parents=True)
    making = venv.state / "making"
    making.touch()
    run(command, "making the virtual environment")
    (venv.state / "made_in").write_text(str(ROOT))
    making.unlink()


def run(command: list[str], what: str) -> None:
    """
    Run *command* and show which package pip is working on; on failure show the end of its output.
    """
    lines: list[str] = []
    on_terminal = sys.stdout.isatty()
    with subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        if process.stdout is None:
            raise SetupFailed(f"{what} failed: no output pipe.")
        for line in process.stdout:
            lines.append(line.rstrip())
            if on_terminal and line.startswith(("Collecting ", "Installing ", "Requirement ")):
                print(f"\r\033[Ksetup: {line.rstrip()[:70]}", end="", flush=True)
    if on_terminal:
        print("\r\033[K", end="", flush=True)
    if process.returncode != 0:
        shown = "\n".join(lines[-OUTPUT_LINES_MAX:])
        raise SetupFailed(f"{what} failed (exit {process.returncode}):\n{shown}")


def install(level: str, venv: Venv) -> None:
    """
    Install the locked packages of *level*, then, without the network, the projects of this checkout.
    """
    cut_short = venv.unfinished.exists()
    if cut_short:
        say("the last install was cut short; installing everything anew")
        for name in LEVELS:
            venv.stamp_file(name).unlink(missing_ok=True)
    venv.state.mkdir(exist_ok=True)
    venv.unfinished.touch()
    venv.stamp_file(level).unlink(missing_ok=True)

    locks = lock_files(level)
    count = sum(line[:1].isalnum() for path in locks for line in path.read_text().splitlines())
    say(f"installing about {count} packages, each checked against its hash")
    pip = [str(venv.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    force = ["--force-reinstall"] if cut_short else []
    chosen = [part for path in locks for part in ("--requirement", str(path))]
    run([*pip, "--require-hashes", *force, *chosen], "installing the packages")
    if venv.with_project:
        offline = ["--no-deps", "--no-build-isolation", "--no-index"]
        projects = [part for project in PROJECTS for part in ("--editable", str(project))]
        run([*pip, *offline, *projects], "installing the project itself")

    venv.stamp_file(level).write_text(stamp_of(level))
    venv.unfinished.unlink()


def main() -> int:
    try:
        parser = argparse.ArgumentParser(
            description="Make the virtual environment of a level with its locked packages."
        )
        parser.add_argument("level", nargs="?", default="run", choices=sorted(LEVELS))
        level = parser.parse_args().level
        if is_complete(level):
            return 0
        with only_one():
            if is_complete(level):
                return 0
            began = time.monotonic()
            venv = venv_of(level)
            if not is_usable(venv):
                make(venv)
            install(level, venv)
            say(f"done in {time.monotonic() - began:.0f} s")
    except SetupFailed as failure:
        print(f"setup: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: stopped; run it again to finish", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
