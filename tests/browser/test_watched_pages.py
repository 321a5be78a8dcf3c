"""A page of the browser tells what went wrong on it: what other tests build on."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.balancer import ALL_TESTS
from tests.support.browser import Chromium, running_chromium
from tests.support.waiting import until

Failed, Skipped = pytest.fail.Exception, pytest.skip.Exception
# Scripts that do something wrong, each with where it is noted, and a part of what is.
WRONG = (
    ("console.error('said so')", "errors", "said so"),
    ("setTimeout(() => { throw new Error('thrown') })", "errors", "thrown"),
    ("fetch('/nowhere')", "errors", "404"),
    ("fetch('http://127.0.0.2:1/x').catch(() => 0)", "outside", "127.0.0.2"),
    ("new Image().src = 'https://example.com/x.png'", "outside", "example.com/x.png"),
    ("new WebSocket('ws://example.com/x')", "outside", "ws://example.com"),
)


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """A server with one page, which links nothing."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><link rel=icon href='data:,'><p>A page", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_a_quiet_page(chromium: Chromium, site: str) -> None:
    """A page on which nothing is wrong passes, and its requests are known."""
    async with chromium.page(site) as watched:
        await watched.page.goto(site)
        assert await watched.page.inner_text("p") == "A page"
        assert watched.requests == [("GET", site)]
        watched.check()


async def test_what_is_wrong_is_noted(chromium: Chromium, site: str) -> None:
    """Each kind of mistake is noted, and fails the check."""
    async with chromium.page(site) as watched:
        await watched.page.goto(site)
        for script, where, text in WRONG:
            noted: list[str] = getattr(watched, where)
            await watched.page.evaluate(f"() => {{ {script} }}")
            await until(lambda noted=noted, text=text: any(text in entry for entry in noted))
            with pytest.raises(AssertionError):
                watched.check()
            watched.errors.clear()
            watched.outside.clear()


@pytest.mark.parametrize(("everything", "ending"), [("1", Failed), ("", Skipped)])
async def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch, everything: str, ending: Any) -> None:
    """Where nothing may be left out its tests fail, elsewhere they are skipped; both say what to install."""
    monkeypatch.setenv(ALL_TESTS, everything)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ending, match="chromium is not installed"):
        async with running_chromium():
            pass


async def test_pages_share_nothing(chromium: Chromium, site: str) -> None:
    """What one page has stored, the next one does not find."""
    async with chromium.page(site) as first:
        await first.page.goto(site)
        await first.page.evaluate("localStorage.setItem('key', 'secret')")
    async with chromium.page(site) as second:
        await second.page.goto(site)
        assert await second.page.evaluate("localStorage.getItem('key')") is None
