"""
Checks a running server against its OpenAPI document with Schemathesis: `make contract`.

Every operation gets valid and invalid requests by the document, alone and in the order of its links. No answer may
have a status, header field, media type or member that is not described, and none may be a failure of the server.
"""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from server.gate.tokens import read_key_name
from tests.support.client import Client
from tests.support.service import LOOPBACK, WEBHOOK_KEY, ServerProcess, make_key

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCHEMATHESIS = ROOT / ".venv-contract" / "bin" / "st"
SECONDS = int(os.environ.get("CONTRACT_SECONDS", "60"))
SEED = os.environ.get("CONTRACT_SEED", "1")
# Further seconds to start, and to finish running requests.
MARGIN_SECONDS = 120
# Limits of requests are not tested here.
SETTINGS = {
    "PYTHONPATH": f"{HERE / 'confined'}{os.pathsep}{ROOT}",
    "TALLYSTICK_AUTH_FAILURE_BURST": "1000000",
    "TALLYSTICK_AUTH_FAILURE_RATE": "1000000/s",
    "TALLYSTICK_BACKGROUND": "true",
    "TALLYSTICK_WEBHOOK_KEY": WEBHOOK_KEY,
    "TALLYSTICK_WEBHOOK_PRIVATE_NETWORKS": LOOPBACK,
}


@pytest.mark.timeout(SECONDS + 2 * MARGIN_SECONDS)
async def test_the_server_is_as_it_is_described(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Thousands of requests made from the document are answered as it says."""
    server = ServerProcess(database_url, tmp_path / "server.log", SETTINGS, redis_url=redis_url)
    try:
        await server.start()
        token = await make_key(database_url, "contract")
        async with aiohttp.ClientSession() as session:
            client = Client(session, server.url, token)
            for account in ("customer:42", "merchant:7", "fees"):
                assert (await client.open(account, floor=None)).status == 201
        ended = await asyncio.create_subprocess_exec(
            *(SCHEMATHESIS, "--config-file", HERE / "schemathesis.toml"),
            *("run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {token}"),
            *("--max-time", str(SECONDS), "--seed", SEED, "--no-color"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(HERE), "CONTRACT_KEY_ID": read_key_name(token)[1]},
        )
        assert await asyncio.wait_for(ended.wait(), SECONDS + MARGIN_SECONDS) == 0
    finally:
        await server.stop()
    assert '"level":"error"' not in server.log_text()
