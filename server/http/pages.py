"""Pages: what each problem means, for people, and what each event is, for programs."""

import hashlib
from collections.abc import Callable
from functools import cache
from html import escape
from typing import Annotated, Any

from msgspec import Meta

from server.http import asyncapi
from server.http.call import Call
from server.http.if_match import names_tag
from server.http.problems import KINDS, Problem
from server.http.query import Query
from server.http.reply import Reply

# Of the hash of a document: enough that no two of its versions meet.
_TAG_DIGITS = 16
_HTML = b"text/html; charset=utf-8"
_HEADERS = (
    b"Cache-Control: public, max-age=3600\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
)
_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}}
code{{background:#f2f2f2;padding:.1em .3em}}td{{padding:.2rem .8rem .2rem 0;vertical-align:top}}</style>
</head><body><h1>{title}</h1>
{body}
</body></html>
"""
_RETRY = {
    "same_key": "The same request with the same idempotency key may be sent again.",
    "new_key": "This request stays refused under its key. Another attempt needs a new key.",
    "never": "The same request can only fail again: change it first.",
}


ProblemCode = Annotated[str, Meta(description="The code of a problem.", examples=["insufficient_funds"])]
# A document that other standards describe.
DocumentBody = dict[str, Any]


def _page(title: str, body: str) -> Reply:
    return Reply(200, _FRAME.format(title=escape(title), body=body).encode(), content_type=_HTML, headers=_HEADERS)


def _document(call: Call, document: bytes) -> Reply:
    """Return a document, or word that the one that the caller keeps is still the same."""
    tag = _tag(document)
    headers = b'Cache-Control: public, no-cache\r\nETag: "%b"\r\n' % tag.encode()
    match = call.head.if_none_match
    if match is not None and names_tag(match, tag):
        return Reply(304, b"", headers=headers)
    return Reply(200, document, headers=headers)


@cache
def _tag(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()[:_TAG_DIGITS]


class PageHandlers:
    """
    Handlers of pages and documents.

    Args:
        openapi: Makes the OpenAPI document, of the table in which these handlers stand.
    """

    def __init__(self, openapi: Callable[[], bytes]) -> None:
        self._openapi = openapi

    async def get_asyncapi(self, call: Call, _query: Query) -> Reply:
        """Describe the events and the ways on which they are sent."""
        return _document(call, asyncapi.document())

    async def get_openapi(self, call: Call, _query: Query) -> Reply:
        """Describe the service."""
        return _document(call, self._openapi())

    async def list_problems(self, _call: Call, _query: Query) -> Reply:
        """List all problems."""
        rows = "\n".join(
            f'<tr><td>{kind.status}</td><td><a href="/problems/{code}"><code>{code}</code></a></td>'
            f"<td>{escape(kind.title)}</td></tr>"
            for code, kind in sorted(KINDS.items(), key=lambda item: (item[1].status, item[0]))
        )
        return _page("Problems", f"<table>{rows}</table>")

    async def get_problem(self, call: Call, _query: Query) -> Reply:
        """Explain one problem."""
        code = call.names[0]
        kind = KINDS.get(code)
        if kind is None:
            raise Problem("not_found")
        return _page(
            kind.title,
            f"<p><code>{kind.status} {escape(code)}</code></p><p>{escape(kind.text)}</p>"
            f"<p>On writes: {_RETRY[kind.retry]}</p><p><a href='/problems'>All problems</a></p>",
        )
