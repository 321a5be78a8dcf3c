"""The reference, as somebody uses it who opens it in a browser."""

import orjson
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
    editor = page.get_by_role("dialog").locator(".cm-content[data-language=json]").first
    await editor.fill(orjson.dumps(ORDER).decode())
    await send(page, key)


async def send(page: Page, key: str) -> None:
    """Send what the page has open, under a key."""
    dialog = page.get_by_role("dialog")
    row = dialog.get_by_role("row").filter(has=page.get_by_label("Include Idempotency-Key in request"))
    await row.get_by_label("Value").fill(key)
    await dialog.get_by_role("button", name="Send").first.click()


async def fits(page: Page, width: int) -> bool:
    """Have it show what stands far below, which is drawn when it is looked at; return whether nothing sticks out."""
    await page.evaluate("location.hash = '#tag/service/GET/problems'")
    await page.get_by_role("button", name="Test Request (get /problems)", exact=True).wait_for()
    return bool(await page.evaluate("document.documentElement.scrollWidth") <= width)


async def test_it_opens(chromium: Chromium, client: Client) -> None:
    """
    Who opens the bare address of a server finds the reference, and the problems, without an error on the console.

    The reference takes three requests, all to the server that it came from.
    """
    async with chromium.page(client.url) as watched:
        page = watched.page
        await page.goto(client.url)
        for address in ("/problems", "/docs"):
            async with page.expect_navigation(url=f"**{address}"):
                await page.locator(f"a[href='{address}']").first.click()
            if address == "/problems":
                await page.go_back()
                watched.requests.clear()
        assert await fits(page, WIDE[0])
        paths = ["/docs", f"/docs/{BUNDLE_NAME}", "/openapi.json"]
        assert watched.requests == [("GET", client.url + path) for path in paths]
        watched.check()


async def test_a_transfer_is_made(chromium: Chromium, client: Client) -> None:
    """
    What is sent from the page moves money on the server it came from, once; the typed API key is not kept.

    A refusal appears with its status and code. On a phone in the dark nothing sticks out of the page.
    """
    assert client.token is not None
    async with chromium.page(client.url) as watched:
        page = watched.page
        await send_order(page, client.url, client.token, "page-1")
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_text("404 Not Found")).to_be_visible()
        await expect(dialog.get_by_text('"account_not_found"')).to_be_visible()

        await client.fund("alice", 0)
        await send(page, "page-2")
        await expect(dialog.get_by_text("201 Created")).to_be_visible()
        shown = dialog.get_by_text("from-the-page").last
        await expect(shown).to_be_visible()
        bound = (await client.get("/v1/idempotency-keys/page-2")).json
        assert {name: bound[name] for name in ORDER} == ORDER
        assert await client.balance("alice") == 1250

        async with page.expect_response("**/v1/transfers") as again:
            await dialog.get_by_role("button", name="Send").first.click()
        answer = await again.value
        assert (answer.status, answer.headers["idempotent-replayed"]) == (201, "true")
        assert await client.balance("alice") == 1250

        assert client.token not in await page.evaluate(KEPT)
        await page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
        await page.emulate_media(color_scheme="dark")
        await page.reload()
        await expect(page.get_by_placeholder("Token").first).to_have_value("")
        assert await fits(page, NARROW[0])
        # The browser notes the answer of 404, and nothing else goes wrong.
        assert [error for error in watched.errors if "404" not in error] == []
        assert watched.outside == []
