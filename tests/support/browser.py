"""Runs Debian's Chromium with playwright; each page of a test records what goes wrong on it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import yarl

from tests.support.balancer import leave_out

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page

# Seconds a page has for each step, even on a machine that is busy with other programs.
STEP_SECONDS = 90.0
# The size of a wide screen.
WIDE = (1280, 900)
# Debian's launcher passes these on unchanged. Only the loopback addresses are resolved, so nothing leaves the machine.
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
    """Return the path of the browser; if it is not installed, skip the test, or fail it in CI."""
    path = shutil.which("chromium")
    if path is None:
        leave_out("chromium is not installed (Debian: apt-get install chromium fonts-dejavu-core)")
    return path


class WatchedPage:
    """
    A page in its own browser profile.

    Args:
        page: The page of playwright.

        origins: The origins that it may send requests to.

    Attributes:
        page: The same page; tests click, fill and read it through playwright.

        errors: Errors in the browser's console, and uncaught exceptions.

        outside: Addresses of other origins that were requested.

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
        # Listen on the context, so that requests of workers and new windows count too.
        page.context.on("request", lambda request: self._asked(request.method, request.url))

    def _said(self, message: "ConsoleMessage") -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _asked(self, method: str, address: str) -> None:
        self.requests.append((method, address))
        url = yarl.URL(address)
        # Addresses that the page has made itself (data:, blob:) have no host.
        if url.scheme in ("http", "https", "ws", "wss") and url.origin() not in self._origins:
            self.outside.append(address)

    def check(self) -> None:
        """Check that nothing went wrong and no other origin was requested."""
        assert (self.errors, self.outside) == ([], [])


class Chromium:
    """
    A running browser.

    Args:
        browser: The browser of playwright.
    """

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser

    @asynccontextmanager
    async def page(self, *origins: str, size: tuple[int, int] = WIDE, **options: Any) -> AsyncIterator[WatchedPage]:
        """
        Yield a new page that shares no cookies and no storage with earlier ones.

        Args:
            origins: The origins that it may send requests to.

            size: The size of the window in pixels.

            options: More options of playwright's browser context, such as `color_scheme="dark"`.
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
    """Run the browser; it ends with the process that started it, however that ends."""
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
