"""The reference: a page of Scalar that shows the OpenAPI document and sends requests to the server it came from."""

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, Iterable
from functools import partial
from html import escape
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from server.http.call import Call
from server.http.problems import Problem
from server.http.query import Query
from server.http.reply import Reply, StreamedReply
from server.http.streams import Downloads

# The version of Scalar. The bundle is unchanged from the published one; vendor/scalar/manifest.json has its hash.
VERSION: Final = "1.76.0"
BUNDLE: Final = Path(__file__).parents[1] / "vendor" / "scalar" / "scalar.js.gz"
# The bundle's address contains the version, so the content at that address never changes.
BUNDLE_NAME: Final = f"scalar-{VERSION}.js"
ReferenceFile = Annotated[
    str, Meta(description="Name of a file that the reference page loads.", examples=[BUNDLE_NAME])
]
# Bytes of the compressed bundle that are read at once; unpacked, they become some four times as many.
PIECE_BYTES: Final = 32 * 1024
# Seconds between two pieces of all downloads together. Reading a piece takes 0.05 ms and unpacking it 0.4 ms, so
# clients that download the script again and again take about a tenth of a worker's time.
PAUSE_SECONDS: Final = 0.001
UNPACKED_PAUSE_SECONDS: Final = 0.004
# Stands for a ledger in the count of downloads, which belong to none.
_NO_LEDGER: Final = 0
# By default, Scalar fetches fonts and offers its maker's services: a proxy for requests, a chat, a hosted client.
_CONFIGURATION: Final = {
    "url": "/openapi.json",
    "agent": {"disabled": True},
    "authentication": {"preferredSecurityScheme": "apiKey"},
    "hideClientButton": True,
    "mcp": {"disabled": True},
    # An API key that was typed in is forgotten when the page closes.
    "persistAuth": False,
    "proxyUrl": "",
    "showDeveloperTools": "never",
    "telemetry": False,
    "withDefaultFonts": False,
    "defaultHttpClient": {"targetKey": "shell", "clientKey": "curl"},
    "documentDownloadType": "direct",
}
# Keeps Scalar from sending anything to another server. It needs inline styles, and draws icons from data URLs.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tallystick API</title>
<link rel="icon" href="data:,">
</head>
<body>
<noscript>This page needs JavaScript. Its content is in <a href="/openapi.json">/openapi.json</a>.</noscript>
<div id="api-reference" data-configuration="{escape(json.dumps(_CONFIGURATION))}"></div>
<script src="/docs/{BUNDLE_NAME}"></script>
</body>
</html>
""".encode()
_PAGE_HEADERS: Final = (
    f"Cache-Control: no-cache\r\nContent-Security-Policy: {_POLICY}\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
).encode()
# The bundle has one form and one ETag for each encoding.
_BUNDLE_HEADERS: Final = (
    b'ETag: "%b"\r\n%bCache-Control: public, max-age=31536000, immutable\r\n'
    b"Vary: Accept-Encoding\r\nX-Content-Type-Options: nosniff\r\n"
)


class ReferenceHandlers:
    """
    Handlers of the API reference.

    Args:
        downloads: Limits the bundles that are being sent.
    """

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads

    async def get_reference(self, _call: Call, _query: Query) -> Reply:
        """Answer with the page, which loads the bundle."""
        return Reply(200, _PAGE, content_type=b"text/html; charset=utf-8", headers=_PAGE_HEADERS)

    async def get_reference_file(self, call: Call, _query: Query) -> Reply:
        """Answer with Scalar's bundle, in pieces, so that a worker never holds all of it for a slow reader."""
        if call.names[0] != BUNDLE_NAME:
            raise Problem("not_found")
        packed = accepts_gzip(call.headers.getall("Accept-Encoding", ()))
        tag = VERSION.encode() + (b"-gzip" if packed else b"")
        headers = _BUNDLE_HEADERS % (tag, b"Content-Encoding: gzip\r\n" if packed else b"")
        known = call.head.if_none_match or ""
        if known.strip() == "*" or f'"{tag.decode()}"' in known:
            return Reply(304, b"", headers=headers)
        content_type = b"text/javascript; charset=utf-8"
        if call.method == "HEAD":
            return StreamedReply(None, content_type=content_type, headers=headers)
        self._downloads.enter(_NO_LEDGER)
        ended = partial(self._downloads.leave, _NO_LEDGER)
        return StreamedReply(self._pieces(packed=packed), ended, content_type=content_type, headers=headers)

    async def _pieces(self, *, packed: bool) -> AsyncGenerator[bytes, None]:
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
        pause_seconds = PAUSE_SECONDS if packed else UNPACKED_PAUSE_SECONDS
        with BUNDLE.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece if packed else unpacking.decompress(piece)
                await asyncio.sleep(pause_seconds * self._downloads.count)


def accepts_gzip(fields: Iterable[str]) -> bool:
    """Return whether Accept-Encoding names gzip with a weight above 0; without the field, nothing is compressed."""
    for coding in ",".join(fields).lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
    return False
