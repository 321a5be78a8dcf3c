"""The root of the service: JSON for programs, a page for people."""

import re

import pytest

from server.telemetry.version import VERSION
from tests.support.browser import Chromium
from tests.support.client import Client
from tests.support.service import Service

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture
def anybody(service: Service) -> Client:
    """A client without a key."""
    return Client(service.session, service.url, None)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        pytest.param(BROWSER, "text/html; charset=utf-8", id="a browser"),
        pytest.param("text/html", "text/html; charset=utf-8", id="a page"),
        pytest.param("*/*", "application/json", id="anything"),
        pytest.param("application/json", "application/json", id="JSON"),
        pytest.param("application/json, text/html;q=0.5", "application/json", id="JSON rather than a page"),
        pytest.param("text/plain", "application/json", id="what there is not"),
    ],
)
async def test_form(anybody: Client, accept: str, media: str) -> None:
    """A request for HTML gets a page, every other one JSON; Vary keeps caches from mixing them."""
    answer = await anybody.get("/", Accept=accept)
    assert (answer.status, answer.headers["Content-Type"]) == (200, media)
    assert "Accept" in answer.headers["Vary"]


async def test_links(anybody: Client) -> None:
    """Both forms show the version, and all their links lead to existing pages."""
    told = (await anybody.get("/")).json
    page = (await anybody.get("/", Accept=BROWSER)).body.decode()
    assert (told["service"], told["version"]) == ("tallystick", VERSION)
    assert VERSION in page
    assert re.findall(r'href="(/[^"]*)"', page) == list(told["links"].values())
    assert {"/docs", "/openapi.json", "/asyncapi.json", "/problems"} <= set(told["links"].values())
    for path in told["links"].values():
        assert (await anybody.get(path)).status == 200, path


async def test_parameters_are_ignored(client: Client, anybody: Client) -> None:
    """Pages ignore parameters, whether the caller has no key, a new one or one that is remembered."""
    for caller in (anybody, client, client):
        for path in ("/problems", "/openapi.json", "/"):
            assert (await caller.get(f"{path}?x=1")).status == 200


@pytest.mark.parametrize("path", ["/", "/problems", "/problems/insufficient_funds"])
async def test_in_a_browser(service: Service, chromium: Chromium, path: str) -> None:
    """A page makes one request, none to another host, logs no error, and is no wider than a phone."""
    async with chromium.page(service.url, size=(400, 800)) as watched:
        await watched.page.goto(service.url + path)
        assert await watched.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert watched.requests == [("GET", service.url + path)]
        watched.check()
