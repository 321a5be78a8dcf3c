"""The reference, as somebody uses it who opens it in a browser."""

import orjson
import pytest
from playwright.async_api import Page, expect

from server.http.handlers.reference import BUNDLE_NAME
from tests.support.browser import WIDE, Chromium
from tests.support.client import Client

ORDER = {"source": "world", "destination": "alice", "amount": 1250, "currency": "EUR", "reference": "from-the-page"}
# Of a phone.
NARROW = (400, 800)
# Everything that a page can keep in a browser.
KEPT = """async () => JSON.stringify([
    {...localStorage}, {...sessionStorage}, document.cookie, location.href,
    await indexedDB.databases(), await caches.keys(),
])"""


async def send_order(page: Page, url: str, token: str, key: str) -> None:
    """Open the reference, type in an API key, an idempotency key and a transfer, and send it."""
    await page.goto(f"{url}/docs")
    await page.get_by_placeholder("Token").first.fill(token)
    await page.get_by_role("button", name="Open Group - Transfers").click()
    await page.locator("a[href='#tag/transfers/POST/v1/transfers']").first.click()
    await page.get_by_role("button", name="Test Request (post /v1/transfers)", exact=True).click()
    dialog = page.get_by_role("dialog")
    row = dialog.get_by_role("row").filter(has=page.get_by_label("Include Idempotency-Key in request"))
    await row.get_by_label("Value").fill(key)
    editor = dialog.locator(".cm-content[data-language=json]").first
    await editor.fill(orjson.dumps(ORDER).decode())
    await dialog.get_by_role("button", name="Send").first.click()


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
async def test_it_opens(chromium: Chromium, client: Client, size: tuple[int, int], scheme: str) -> None:
    """Three requests, all to the server that it came from, and no error on the console; no wider than the screen."""
    async with chromium.page(client.url, size=size, color_scheme=scheme) as watched:
        page = watched.page
        await page.goto(f"{client.url}/docs")
        await page.get_by_role("button", name="Test Request").first.wait_for()
        # What stands below is drawn when it is looked at.
        await page.evaluate("location.hash = '#tag/service/GET/problems'")
        await page.get_by_role("button", name="Test Request (get /problems)", exact=True).wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
        paths = ["/docs", f"/docs/{BUNDLE_NAME}", "/openapi.json"]
        assert watched.requests == [("GET", client.url + path) for path in paths]
        watched.check()


async def test_the_root_leads_there(chromium: Chromium, client: Client) -> None:
    """Who opens the bare address of a server finds the reference, and the problems, without an error on the console."""
    async with chromium.page(client.url) as watched:
        await watched.page.goto(client.url)
        for address in ("/docs", "/problems"):
            async with watched.page.expect_navigation(url=f"**{address}"):
                await watched.page.locator(f"a[href='{address}']").first.click()
            await watched.page.go_back()
        watched.check()


async def test_a_transfer_is_made(chromium: Chromium, client: Client) -> None:
    """What is sent from the page moves money on the server it came from, once; the typed API key is not kept."""
    assert client.token is not None
    await client.fund("alice", 0)
    async with chromium.page(client.url) as watched:
        page = watched.page
        await send_order(page, client.url, client.token, "page-1")
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_text("201 Created")).to_be_visible()
        shown = dialog.get_by_text("from-the-page").last
        await expect(shown).to_be_visible()
        bound = (await client.get("/v1/idempotency-keys/page-1")).json
        assert {name: bound[name] for name in ORDER} == ORDER
        assert await client.balance("alice") == 1250

        async with page.expect_response("**/v1/transfers") as again:
            await dialog.get_by_role("button", name="Send").first.click()
        answer = await again.value
        assert (answer.status, answer.headers["idempotent-replayed"]) == (201, "true")
        assert await client.balance("alice") == 1250

        assert client.token not in await page.evaluate(KEPT)
        await page.reload()
        await expect(page.get_by_placeholder("Token").first).to_have_value("")
        watched.check()


async def test_a_problem_is_shown(chromium: Chromium, client: Client) -> None:
    """A refusal appears with its status and code; the browser's console has its status and nothing else."""
    assert client.token is not None
    async with chromium.page(client.url) as watched:
        page = watched.page
        await send_order(page, client.url, client.token, "page-2")
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_text("404 Not Found")).to_be_visible()
        await expect(dialog.get_by_text('"account_not_found"')).to_be_visible()
        assert [error for error in watched.errors if "404" not in error] == []
        assert watched.outside == []
