"""Handlers of pages and documents: the start page, the pages of problems, and the OpenAPI and AsyncAPI documents."""

from collections.abc import Callable
from html import escape
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from server.http import asyncapi
from server.http.accept import prefers
from server.http.call import Call
from server.http.entity_tags import names_tag, tag_of
from server.http.headers import VARY_ACCEPT
from server.http.problems import KINDS, Problem
from server.http.query import Query
from server.http.reply import Reply
from server.telemetry.version import VERSION

_HTML = b"text/html; charset=utf-8"
_POLICY = (
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\n"
)
_KEPT = b"Cache-Control: public, max-age=3600\r\n"
_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;overflow-wrap:anywhere}}
code{{background:#8883;padding:.1em .3em}}td{{padding:.2rem .8rem .2rem 0;vertical-align:top}}</style>
</head><body><h1>{title}</h1>
{body}
</body></html>
"""
_RETRY = {
    "same_key": "Send the same request again, with the same idempotency key.",
    "new_key": "This request stays refused under its key. Another attempt needs a new key.",
    "never": "The same request would fail again: change it first.",
}


ProblemCode = Annotated[str, Meta(description="Code of a problem.", examples=["insufficient_funds"])]
# A document whose form another standard defines.
DocumentBody = dict[str, Any]


# The pages and documents of a server that are open to all.
_LINKS = {
    "docs": ("/docs", "The reference, where every operation can be tried"),
    "openapi": ("/openapi.json", "The same for programs: OpenAPI 3.1"),
    "asyncapi": ("/asyncapi.json", "Events and how they are sent: AsyncAPI 3"),
    "problems": ("/problems", "What each problem means"),
    "live": ("/livez", "Whether the process is alive"),
    "ready": ("/readyz", "Whether the server is ready"),
}


class ServiceBody(msgspec.Struct, gc=False):
    """The name and version of the service, and links to its documents."""

    service: Literal["tallystick"]
    version: str
    links: dict[str, str]


def _page(title: str, body: str, headers: bytes = _KEPT) -> Reply:
    page = _FRAME.format(title=escape(title), body=body).encode()
    return Reply(200, page, content_type=_HTML, headers=headers + _POLICY)


def _document(call: Call, document: bytes) -> Reply:
    """Return the reply with a document, or a 304 if the caller's copy is still the same."""
    tag = tag_of(document)
    headers = b'Cache-Control: public, no-cache\r\nETag: "%b"\r\n' % tag.encode()
    match = call.head.if_none_match
    if match is not None and names_tag(match, tag):
        return Reply(304, b"", headers=headers)
    return Reply(200, document, headers=headers)


class PageHandlers:
    """
    Handlers of pages and documents.

    Args:
        openapi: Returns the OpenAPI document. It is a function, because the document is made of the table of routes,
            which contains these handlers.
    """

    def __init__(self, openapi: Callable[[], bytes]) -> None:
        self._openapi = openapi

    async def get_service(self, call: Call, _query: Query) -> Reply:
        """Answer with the name and version of the service, and links to its documents."""
        headers = VARY_ACCEPT + b"Cache-Control: no-cache\r\n"
        if prefers(call.headers.getall("Accept", ()), "text/html"):
            rows = "".join(
                f'<tr><td><a href="{path}">{path}</a></td><td>{escape(text)}</td></tr>'
                for path, text in _LINKS.values()
            )
            content = f"<p>A payments ledger over HTTP, version {escape(VERSION)}.</p><table>{rows}</table>"
            return _page("Tallystick", content, headers)
        body = ServiceBody("tallystick", VERSION, {name: path for name, (path, _) in _LINKS.items()})
        return Reply(200, msgspec.json.encode(body), headers=headers)

    async def get_asyncapi(self, call: Call, _query: Query) -> Reply:
        """Answer with the AsyncAPI document: the events and how they are sent."""
        return _document(call, asyncapi.document())

    async def get_openapi(self, call: Call, _query: Query) -> Reply:
        """Answer with the OpenAPI document."""
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
        """Answer with the page of a problem."""
        code = call.names[0]
        kind = KINDS.get(code)
        if kind is None:
            raise Problem("not_found")
        return _page(
            kind.title,
            f"<p><code>{kind.status} {escape(code)}</code></p><p>{escape(kind.text)}</p>"
            f"<p>On writes: {_RETRY[kind.retry]}</p>"
            '<p><a href="/problems">All problems</a> · <a href="/docs">The reference</a></p>',
        )
