"""Reads the console's page and its other files from the folder `static`."""

from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

ROOT: Final = Path(__file__).parent / "static"
PAGE: Final = "index.html"
# The media type of each kind of file.
TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class File(NamedTuple):
    """The contents of a file and its media type."""

    body: bytes
    content_type: str

    def answer(self) -> web.Response:
        """Return the file as an answer."""
        return web.Response(body=self.body, content_type=self.content_type, charset="utf-8")


def read_files() -> dict[str, File]:
    """Return all files by their path below the folder."""
    return {
        path.relative_to(ROOT).as_posix(): File(path.read_bytes(), TYPES[path.suffix])
        for path in sorted(ROOT.rglob("*"))
        if path.suffix in TYPES
    }
