"""
A wheel built from this checkout works without the checkout, with its SQL inside (docs/decisions/0001).
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOAD_ALL = """
from pathlib import Path
from server.store import sql
root = sql.sql_root()
assert root == Path(sql.__file__).resolve().parent.parent / "_sql", root
print(*sorted(sql.queries()), sep="\\n")
"""


def run(*command: str, cwd: Path, python_path: Path | None = None) -> str:
    """
    Run *command* in *cwd* with no import path but *python_path*, and return its output.
    """
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    if python_path:
        environment["PYTHONPATH"] = str(python_path)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sql_files() -> dict[str, bytes]:
    files = (path for path in (ROOT / "sql").rglob("*") if path.is_file())
    return {path.relative_to(ROOT / "sql").as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A wheel of this checkout, built by the locked hatchling without network access.
    """
    dist = tmp_path_factory.mktemp("dist")
    build = ("hatchling", "build", "--target", "wheel", "--directory", str(dist))
    run(sys.executable, "-m", *build, cwd=ROOT)
    (built,) = dist.glob("*.whl")
    return built


def test_wheel_carries_all_sql(wheel: Path) -> None:
    """
    Every file of sql/ is in the wheel as server/_sql, unchanged, and nowhere else.
    """
    with zipfile.ZipFile(wheel) as archive:
        carried = {
            name.removeprefix("server/_sql/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("server/_sql/")
        }
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert carried == sql_files()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"server"}


def test_wheel_carries_what_pages_load(wheel: Path) -> None:
    """
    Vendored files are in the wheel, each with its manifest and licence, and so is the console.
    """
    paths = (path for place in ("**/vendor/**/*.*", "**/static/*.*") for path in (ROOT / "server").glob(place))
    vendored = {path.relative_to(ROOT).as_posix(): path for path in paths}
    assert "server/http/vendor/scalar/scalar.js.gz" in vendored
    with zipfile.ZipFile(wheel) as archive:
        assert {name: archive.read(name) for name in vendored} == {n: p.read_bytes() for n, p in vendored.items()}
        folders = ("server/http/vendor/scalar", "server/process/console/static/vendor/uplot")
        assert {f"{folder}/LICENSE" for folder in folders} < set(archive.namelist())


def test_installed_wheel_loads_its_statements(wheel: Path, tmp_path: Path) -> None:
    """
    The service finds all its statements when it is installed and run elsewhere.
    """
    target = tmp_path / "installed"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(target))
    run(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=tmp_path)

    loaded = run(sys.executable, "-c", LOAD_ALL, cwd=tmp_path, python_path=target)

    written = [
        line.removeprefix("-- name: ").split("(")[0]
        for path in (ROOT / "sql" / "queries").glob("*.sql")
        for line in path.read_text().splitlines()
        if line.startswith("-- name: ")
    ]
    assert loaded.split() == sorted(written)


def test_the_client_has_a_wheel(tmp_path: Path) -> None:
    """
    The client's wheel holds that package with its types and nothing else, and requires only httpx and msgspec.
    """
    build = ("hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist"))
    run(sys.executable, "-m", *build, cwd=ROOT / "client")
    (built,) = (tmp_path / "dist").glob("tallystick_client-*.whl")
    with zipfile.ZipFile(built) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
        archive.extractall(tmp_path / "installed")
    package = ROOT / "client" / "tallystick_client"
    assert names == {f"tallystick_client/{path.name}" for path in package.iterdir() if path.is_file()}
    needs = re.findall(r"^Requires-Dist: ([a-z]+)", metadata, re.MULTILINE)
    assert sorted(needs) == ["httpx", "msgspec"]
    loaded = "import tallystick_client as t; print(t.__file__); t.Tallystick('http://127.0.0.1:1', 'key').close()"
    printed = run(sys.executable, "-c", loaded, cwd=tmp_path, python_path=tmp_path / "installed")
    assert printed.startswith(str(tmp_path))
