"""The reference page and its script, as they are sent; tests/browser opens them."""

import gzip
import hashlib
import json
from contextlib import AsyncExitStack

import pytest

from server.http.handlers.reference import BUNDLE, BUNDLE_NAME, VERSION, accepts_gzip
from server.http.streams import DOWNLOADS_MAX
from tests.input.wire import narrow, request
from tests.support.client import Client
from tests.support.service import Service
from tests.support.waiting import until

PATH = f"/docs/{BUNDLE_NAME}"
# Bytes of the script that may wait for a client that does not read: two chunks, uncompressed.
WAITING_MAX_BYTES = 512 * 1024


def test_the_script_is_the_published_one() -> None:
    """The served script has the hash, version and licence in its manifest."""
    manifest = json.loads(BUNDLE.with_name("manifest.json").read_bytes())
    script = gzip.decompress(BUNDLE.read_bytes())
    assert hashlib.sha256(script).hexdigest() == manifest["sha256"]
    assert (manifest["version"], manifest["licence"]) == (VERSION, "MIT")
    assert f"{manifest['name']} {VERSION}\n".encode() in script
    assert BUNDLE.with_name("LICENSE").read_text().startswith("MIT License\n\nCopyright")


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        pytest.param([], False, id="nothing is said"),
        pytest.param(["gzip, deflate, br, zstd"], True, id="a browser"),
        pytest.param(["br", "GZIP ;q=0.5"], True, id="two fields, a weight"),
        pytest.param(["gzip;q=0"], False, id="refused"),
        pytest.param(["gzip; q=0.000, br"], False, id="refused in full"),
        pytest.param(["gzip;q=0.001"], True, id="the smallest weight"),
        pytest.param(["identity"], False, id="as it is"),
        pytest.param(["x-gzipped"], False, id="another name"),
    ],
)
def test_who_gets_it_compressed(fields: list[str], accepted: bool) -> None:
    """The script is compressed for clients that accept gzip."""
    assert accepts_gzip(fields) is accepted


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_the_script(service: Service, coding: str) -> None:
    """Both forms are the same script, immutable in caches, and answered 304 by tag; HEAD has the same headers."""
    client = Client(service.session, service.url, None)
    answer = await client.get(PATH, Accept_Encoding=coding)
    assert answer.status == 200
    assert answer.body == gzip.decompress(BUNDLE.read_bytes())
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers.get("Content-Encoding", "identity") == coding
    assert (answer.headers["Vary"], answer.headers["X-Content-Type-Options"]) == ("Accept-Encoding", "nosniff")
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert VERSION in PATH

    for known in (answer.headers["ETag"], f'"other", W/{answer.headers["ETag"]}', "*"):
        kept = await client.get(PATH, Accept_Encoding=coding, If_None_Match=known)
        assert (kept.status, kept.body, kept.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    other = "gzip" if coding == "identity" else "identity"
    assert (await client.get(PATH, Accept_Encoding=other, If_None_Match=answer.headers["ETag"])).status == 200

    head = await client.send("HEAD", PATH, headers={"Accept-Encoding": coding})
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])


async def test_the_page(service: Service) -> None:
    """The page loads only that script, and its policy lets it reach no other server."""
    answer = await Client(service.session, service.url, None).get("/docs")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert f'src="{PATH}"' in answer.body.decode()
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "http" not in answer.headers["Content-Security-Policy"]
    assert (answer.headers["Referrer-Policy"], answer.headers["Cache-Control"]) == ("no-referrer", "no-cache")


@pytest.mark.parametrize("name", ["scalar-0.0.0.js", "manifest.json", "..%2f..%2freference.py", "LICENSE"])
async def test_nothing_else_is_there(service: Service, name: str) -> None:
    """Other names under /docs are a 404."""
    answer = await Client(service.session, service.url, None).get(f"/docs/{name}")
    assert (answer.status, answer.code) == (404, "not_found")


async def test_who_does_not_read_takes_up_little(service: Service) -> None:
    """A client that does not read holds little memory, and once there are too many the script is refused with 503."""
    assert service.app is not None
    client = Client(service.session, service.url, None)
    async with AsyncExitStack() as stack:
        for _ in range(DOWNLOADS_MAX):
            wire = await stack.enter_async_context(narrow(service.url))
            await wire.send(request("GET", PATH))
            await wire.reader.readexactly(1)
        waiting = [some.transport.get_write_buffer_size() for some in service.app.server.connections if some.transport]
        assert max(waiting) < WAITING_MAX_BYTES
        refused = await client.get(PATH)
        assert (refused.status, refused.code) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await client.get("/docs")).status == 200

    async def served() -> bool:
        return (await client.get(PATH)).status == 200

    await until(served)
