"""Debian's Chromium, driven by playwright: pages of tests, each with a record of what went wrong on it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import yarl

from tests.support.balancer import leave_out

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page

# Seconds that a page gets for each thing that it is asked to do, on a machine busy with other tests too.
STEP_SECONDS = 30.0
# A wide screen.
WIDE = (1280, 900)
# Debian's launcher takes these as they are. No name but these addresses is resolved, so nothing leaves the machine.
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def chromium() -> str:
    """Return the path of the browser, or leave the test out where it is not installed; in CI fail."""
    path = shutil.which("chromium")
    if path is None:
        leave_out("chromium is not installed (Debian: apt-get install chromium fonts-dejavu-core)")
    return path


class WatchedPage:
    """
    A page in a browser profile of its own.

    Args:
        page: Of playwright.

        origins: Those that it may send requests to.

    Attributes:
        page: The same: it is clicked, filled and read through playwright.

        errors: What the browser's console took for an error, and exceptions that nobody caught.

        outside: Addresses of other origins that were asked for.

        requests: All requests, each as method and address.
    """

    def __init__(self, page: "Page", origins: tuple[str, ...]) -> None:
        self.page = page
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self._origins = {yarl.URL(origin).origin() for origin in origins}
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.on("websocket", lambda socket: self.outside.append(socket.url))
        # Of the context, so that what workers and new windows ask for counts too.
        page.context.on("request", lambda request: self._asked(request.method, request.url))

    def _said(self, message: "ConsoleMessage") -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _asked(self, method: str, address: str) -> None:
        self.requests.append((method, address))
        url = yarl.URL(address)
        # What the page has made itself (data:, blob:) has no host.
        if url.scheme in ("http", "https", "ws", "wss") and url.origin() not in self._origins:
            self.outside.append(address)

    def check(self) -> None:
        """Check that nothing went wrong and nothing outside was asked for."""
        assert (self.errors, self.outside) == ([], [])


class Chromium:
    """
    A running browser.

    Args:
        browser: Of playwright.
    """

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser

    @asynccontextmanager
    async def page(self, *origins: str, size: tuple[int, int] = WIDE, **options: Any) -> AsyncIterator[WatchedPage]:
        """
        Lend a page that knows nothing of those before it, no cookie and no stored word.

        Args:
            origins: Those that it may send requests to.

            size: Of the window, in pixels.

            options: Further ones of a browser context of playwright, such as `color_scheme="dark"`.
        """
        context: BrowserContext = await self._browser.new_context(
            viewport={"width": size[0], "height": size[1]}, **options
        )
        try:
            context.set_default_timeout(STEP_SECONDS * 1_000)
            yield WatchedPage(await context.new_page(), origins)
        finally:
            await context.close()


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Chromium]:
    """Run the browser; it ends with the process that has started it, however that ends."""
    path = chromium()
    # Imported here: most test processes open no page.
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=list(ARGUMENTS), timeout=STEP_SECONDS * 1_000
        )
        try:
            yield Chromium(browser)
        finally:
            await browser.close()
