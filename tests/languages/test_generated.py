"""Clients that generators of others make of the OpenAPI document: they compile, pay, retry and read a problem."""

import asyncio
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.http import openapi
from tests.client.lossy import PASS, lossy
from tests.support.balancer import leave_out
from tests.support.client import Client

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Says how the clients are made.
PAGE = (ROOT / "docs" / "how-to" / "clients.md").read_text()
GENERATOR = ROOT / ".venv-contract" / "bin" / "openapi-python-client"

# What runs the program that was compiled.
Command = list[str]


async def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a program in a folder, and return what it printed."""
    child = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await child.communicate()
    assert child.returncode == 0, out.decode()
    return out.decode()


async def python(folder: Path) -> Command:
    """Make a client with openapi-python-client, and check the types of the program that uses it."""
    if not GENERATOR.exists():
        leave_out("openapi-python-client is not installed (scripts/bootstrap.py contract)")
    found = f"{GENERATOR.parent}:{os.environ.get('PATH', '')}"
    options = ("generate", "--path", "openapi.json", "--meta", "none", "--output-path", "tallystick_api")
    assert f"\nopenapi-python-client {' '.join(options)}\n" in PAGE
    await run(GENERATOR, *options, "--fail-on-warning", folder=folder, PATH=found)
    interpreter = GENERATOR.with_name("python")
    await run(interpreter, "-m", "compileall", "-q", "tallystick_api", folder=folder)
    # Of what was generated only the types are asked for: the generator's own lines are not strict.
    checks = ("--strict", "--follow-imports", "silent", "--config-file", os.devnull, "--cache-dir", os.devnull)
    await run(sys.executable, "-m", "mypy", *checks, "--python-executable", interpreter, "pay.py", folder=folder)
    return [str(interpreter), "pay.py"]


async def typescript(folder: Path) -> Command:
    """Make types with openapi-typescript, and compile the program that uses them."""
    locked = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tallystick" / f"typescript-{locked}"
    packages = Path(os.environ.get("TYPESCRIPT_PACKAGES") or default)
    if not (packages / "complete").exists():
        leave_out("npm's packages are not there (scripts/typescript.sh fetches them)")
    if shutil.which("node") is None:
        leave_out("Node.js is not installed (Debian: apt-get install nodejs)")
    modules = folder / "node_modules"
    modules.symlink_to(packages / "node_modules")
    generate = ("openapi.json", "--output", "tallystick.d.ts", "--default-non-nullable=false")
    assert f"\nnpx openapi-typescript {' '.join(generate)}\n" in PAGE
    await run("node", modules / "openapi-typescript" / "bin" / "cli.js", *generate, folder=folder)
    # Declarations are not checked, since those of libraries take most of the time: these are, as a program.
    shutil.copy(folder / "tallystick.d.ts", folder / "checked.ts")
    await run("node", modules / "typescript" / "bin" / "tsc", "--project", ".", folder=folder)
    return ["node", "pay.js"]


@pytest.mark.parametrize("build", [python, typescript])
async def test_it_pays(client: Client, tmp_path: Path, build: Callable[[Path], Any]) -> None:
    """A program that loses the answer to its payment pays once, gets the same transfer again, and reads a refusal."""
    assert client.token is not None
    (tmp_path / "openapi.json").write_bytes(openapi.document())
    for name in ("package.json", "pay.py", "pay.ts", "tsconfig.json"):
        shutil.copy(HERE / name, tmp_path)
    command = await build(tmp_path)
    async with lossy(client.url, client.session) as proxy:
        # The second account has been opened: the payment comes next.
        proxy.script([PASS, PASS, "lose answer"])
        said = json.loads(
            await run(*command, folder=tmp_path, TALLYSTICK_URL=proxy.url, TALLYSTICK_API_KEY=client.token)
        )
        keys = [key for _, path, key in proxy.sent if path == "/v1/transfers"]
    bound = (await client.get("/v1/idempotency-keys/order-1")).json
    assert said == {
        "lost": 1,
        "replayed": True,
        "ids": [bound["id"]] * 2,
        "problem": [409, "insufficient_funds", "refused", "new_key"],
        "balance": 1250,
    }
    assert keys == ["order-1", "order-1", "order-1", "order-2"]
    assert await client.balance("alice") == 1250
