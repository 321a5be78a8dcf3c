"""The console in a browser: what an operator sees and does there."""

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from tests.console.steps import IMAGE, LEDGER, SCRIPT, TOKEN, Console
from tests.support.browser import Chromium, WatchedPage
from tests.support.waiting import until

NARROW = (400, 860)
# What can be read as HTML, wherever callers may write.
HOSTILE = {"note": SCRIPT, IMAGE: "a member's name"}


@asynccontextmanager
async def opened(console: Console, chromium: Chromium, **options: Any) -> AsyncIterator[WatchedPage]:
    """Lend a page on which the console is open."""
    async with chromium.page(console.server.admin_url, **options) as watched:
        await watched.page.goto(f"{console.url}#token={TOKEN}")
        await watched.page.get_by_role("link", name="Live").wait_for()
        yield watched


@pytest.fixture(scope="module")
async def payment(console: Console) -> dict[str, Any]:
    """A hold that was captured in part, all of whose texts are hostile."""
    client = console.client
    await client.open("world", floor=None)
    await client.open("alice", metadata=HOSTILE)
    await client.transfer("world", "alice", 10_000, "top-up")
    texts = {"reference": SCRIPT, "description": IMAGE, "metadata": HOSTILE}
    made = await client.transfer("alice", "world", 5_000, f"key-{IMAGE.replace(' ', '/')}", hold=True, **texts)
    assert made.status == 201, made.body
    found: dict[str, Any] = made.json
    path, headers = f"/v1/transfers/{found['id']}/capture", {"Idempotency-Key": "part"}
    captured = await client.send("POST", path, {"amount": 2_000, "release_rest": False}, headers=headers)
    assert captured.status == 201, captured.body
    back = f"/v1/transfers/{captured.json['id']}/reverse"
    assert (await client.send("POST", back, {"amount": 500}, headers={"Idempotency-Key": "back"})).status == 201
    return found


async def test_live(console: Console, chromium: Chromium) -> None:
    """The token leaves the address, the charts are drawn, and the numbers are those of the requests that come."""
    async with opened(console, chromium) as watched:
        page = watched.page
        assert page.url == console.url
        await page.wait_for_selector("#charts canvas")
        assert await page.locator("#charts figure").count() == 12

        async def counted() -> bool:
            await console.client.get("/v1/accounts/nobody")
            requests = await page.locator(".tiles div", has_text="Requests").locator("dd").inner_text()
            refusals = await page.locator("section", has_text="Refusals").inner_text()
            return not requests.startswith("0") and "account_not_found" in refusals

        await until(counted, 20.0)
        processes = await page.locator("section", has_text="Processes").inner_text()
        assert re.search(r"worker 1\s+serving", processes)
        # The moment can be moved back, and the numbers with it.
        await page.get_by_label("Moment").focus()
        await page.keyboard.press("ArrowLeft")
        assert "ago" in await page.locator("#moment-word").inner_text()
        watched.check()


async def test_look_ups(console: Console, chromium: Chromium, payment: dict[str, Any]) -> None:
    """An account, a transfer and a key are found, and what callers have written is text, whatever it looks like."""
    async with opened(console, chromium) as watched:
        page = watched.page
        await page.get_by_role("link", name="Look up").click()
        await page.get_by_label("Ledger").select_option(label=LEDGER)
        await page.get_by_label("Id or key, whole").fill("alice")
        await page.get_by_role("button", name="Look up").click()
        await page.get_by_text("Statement").wait_for()
        text = await page.locator("main").inner_text()
        assert "85.00 EUR" in text
        assert "Still held" in text
        assert SCRIPT in text
        # From its statement to the capture, and from there to its parent.
        await page.locator("td a.id").nth(1).click()
        await page.get_by_text("Children").wait_for()
        await page.locator(f"a[title='{payment['id']}']").click()
        await page.get_by_text("hold open").wait_for()
        text = await page.locator("main").inner_text()
        assert IMAGE in text
        assert "capture" in text
        await page.get_by_label("What").select_option(label="Idempotency key")
        await page.get_by_label("Id or key, whole").fill(f"key-{IMAGE.replace(' ', '/')}")
        await page.keyboard.press("Enter")
        steps = page.locator("ol.timeline li")
        await steps.first.wait_for()
        assert [(await step.locator("strong").inner_text()).split(":")[0] for step in await steps.all()] == [
            "Reserved",
            "Captured",
            "Reversed",
            "Now",
        ]
        assert "30.00 EUR held until" in await steps.last.inner_text()
        await page.get_by_role("link", name="Events").click()
        await page.locator("td", has_text="hold.created").first.wait_for()
        # Nothing has come of what was read: no element, no script.
        assert await page.locator("main img, main script").count() == 0
        assert await page.title() == "Events · Tallystick console"
        watched.check()


async def test_what_is_not_there(console: Console, chromium: Chromium) -> None:
    """
    What was not done is said as plainly as what was; nonsense is answered with what is wrong with it.

    An address that cannot be read opens the page all the same.
    """
    async with opened(console, chromium) as watched:
        page = watched.page
        await page.evaluate("location.hash = 'find/1/account/%'")
        await page.get_by_role("heading", name="Live").wait_for()
        watched.check()
        ledger = await console.ledger()
        await page.evaluate("hash => { location.hash = hash }", f"find/{ledger}/key/{quote('never used', safe='')}")
        await page.get_by_text("Nothing was done under this key").wait_for()
        await page.evaluate("hash => { location.hash = hash }", f"find/{ledger}/account/{quote(IMAGE, safe='')}")
        await page.get_by_role("alert").wait_for()
        # The browser itself notes the two answers of 404, and nothing else goes wrong.
        assert all("404" in error for error in watched.errors), watched.errors
        assert watched.outside == []


async def test_keys(console: Console, chromium: Chromium) -> None:
    """A key is made, limited and revoked."""
    async with opened(console, chromium) as watched:
        page = watched.page
        await page.get_by_role("link", name="Keys").click()
        await page.get_by_role("button", name="New key").click()
        await page.get_by_label("Description").fill(SCRIPT)
        await page.get_by_role("button", name="Create").click()
        token = await page.locator("dialog code").inner_text()
        assert token.startswith("tsk_")
        key = token.split("_")[2]
        await page.get_by_role("button", name="Close").click()
        row = page.get_by_role("row", name=key)
        await row.get_by_role("button", name="Limit").click()
        await page.get_by_label("Rate").fill("5/s")
        await page.get_by_role("button", name="Change").click()
        await row.get_by_text("5/s").wait_for()
        assert SCRIPT in await row.inner_text()
        await row.get_by_role("button", name="Revoke").click()
        await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        await row.get_by_text("revoked").wait_for()
        watched.check()


async def test_replay(console: Console, chromium: Chromium) -> None:
    """An endpoint is sent its events again from where an operator says."""
    answer = await console.client.post("/v1/webhook-endpoints", {"url": "http://127.0.0.1:1/x", "description": SCRIPT})
    endpoint = answer.json["id"]
    async with opened(console, chromium) as watched:
        page = watched.page
        await page.get_by_role("link", name="Webhooks").click()
        await page.get_by_role("link", name="http://127.0.0.1:1/x").click()
        await page.get_by_role("button", name="Replay").click()
        await page.get_by_label("From position").fill("1")
        await page.get_by_role("button", name="Send again").click()
        await page.get_by_role("dialog").wait_for(state="detached")
        assert (await console.client.get(f"/v1/webhook-endpoints/{endpoint}")).json["position"] == 0
        watched.check()


async def test_by_keyboard(console: Console, chromium: Chromium, payment: dict[str, Any]) -> None:
    """Everything is reached by Tab, seen where it is, and done by Enter."""
    async with opened(console, chromium) as watched:
        page = watched.page

        async def tab_to(name: str) -> None:
            for _ in range(20):
                await page.keyboard.press("Tab")
                focused = await page.evaluate(
                    "() => [document.activeElement.innerText || document.activeElement.name,"
                    " getComputedStyle(document.activeElement).outlineStyle]"
                )
                if focused[0] == name:
                    assert focused[1] != "none"
                    return
            raise AssertionError(f"{name} is not reached")

        await tab_to("Skip to content")
        await page.keyboard.press("Enter")
        assert await page.evaluate("() => document.activeElement.id") == "main"
        await page.keyboard.press("Shift+Tab")
        await page.evaluate("() => document.activeElement.blur()")
        await tab_to("Look up")
        await page.keyboard.press("Enter")
        await page.get_by_label("Id or key, whole").wait_for()
        await page.keyboard.type("alice")
        await page.keyboard.press("Enter")
        await page.get_by_text("Statement").wait_for()
        watched.check()


async def test_screens(console: Console, chromium: Chromium, payment: dict[str, Any]) -> None:
    """
    On 400 pixels nothing has to be moved sideways, and on a wide screen no table of the live numbers is cut off.

    The page is as light or dark as is wished.
    """
    async with opened(console, chromium, size=NARROW) as watched:
        page = watched.page
        ledger = await console.ledger()
        places = {
            "live": "#charts canvas",
            f"find/{ledger}/account/alice": "dl.facts",
            f"find/{ledger}/transfer/{payment['id']}": "dl.facts",
            f"find/{ledger}/key/top-up": "ol.timeline",
            "events": "td",
            "keys": "td",
            "webhooks": "td",
        }
        for place, shows in places.items():
            await page.evaluate("hash => { location.hash = hash }", place)
            await page.wait_for_selector(shows)
            assert await page.evaluate("() => document.documentElement.scrollWidth") <= NARROW[0], place
        for colours in ("light", "dark"):
            await page.emulate_media(color_scheme=colours)
            await page.evaluate("hash => { location.hash = hash }", "live")
            await page.wait_for_selector("#charts canvas")
            ground = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
            assert (brightness < 60) if colours == "dark" else (brightness > 200)
        await page.locator("section", has_text="Processes").locator("td").first.wait_for()
        cut = "() => [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"
        for width in (1000, 1280, 1600, 2400):
            await page.set_viewport_size({"width": width, "height": 1000})
            assert await page.evaluate(cut) == 0, width
        watched.check()


async def test_names_as_long_as_they_may_be(console: Console, chromium: Chromium) -> None:
    """On 400 pixels they are broken into lines, few of them."""
    name = "n" * 64
    await console.client.open("world", floor=None)
    await console.client.open(name)
    assert (await console.client.transfer("world", name, 100, name, hold=True)).status == 201
    async with opened(console, chromium, size=NARROW) as watched:
        page = watched.page
        ledger = await console.ledger()
        for place, shows in ((f"key/{name}", "ol.timeline"), (f"account/{name}", "td .tag")):
            await page.evaluate("hash => { location.hash = hash }", f"find/{ledger}/{place}")
            await page.wait_for_selector(shows)
            assert await page.evaluate("() => document.documentElement.scrollWidth") <= NARROW[0], place
        assert (
            await page.evaluate(
                "() => Math.max(...[...document.querySelectorAll('td')].map((cell) => cell.offsetHeight))"
            )
            < 200
        )
        watched.check()


async def test_an_old_token_while_wrong_ones_come(console: Console, chromium: Chromium) -> None:
    """Who has to wait is told so, and asked for the token."""
    while (await console.ask("GET", "/ledgers", Authorization="Bearer x"))[0] != 429:
        pass
    async with chromium.page(console.server.admin_url) as watched:
        await watched.page.goto(f"{console.url}#token={'x' * 40}")
        await watched.page.get_by_role("alert").wait_for()
        assert "Wait a minute" in await watched.page.get_by_role("alert").inner_text()
        await watched.page.get_by_label("Token").wait_for()


async def test_signing_in(console: Console, chromium: Chromium) -> None:
    """Without the token there is only the question for it; a wrong one is refused, the right one opens."""
    async with chromium.page(console.server.admin_url) as watched:
        page = watched.page
        await page.goto(console.url)
        for wrong in ("x" * 40, "x", "tökén ✓"):
            await page.get_by_label("Token").fill(wrong)
            await page.get_by_role("button", name="Open").click()
            await page.wait_for_function("() => !document.querySelector('input').value")
            # The latter after the test before this one.
            said = await page.get_by_role("alert").inner_text()
            assert "The token is wrong" in said or "too many wrong tokens" in said
            assert await page.get_by_role("navigation").count() == 0
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Open").click()
        await page.wait_for_selector("#charts canvas")
        assert watched.outside == []


async def test_nothing_is_heard(console: Console, chromium: Chromium) -> None:
    """A page says for how long that has been so, and goes on when the admin process is there again."""
    async with opened(console, chromium) as watched:
        page = watched.page
        await page.get_by_text("live", exact=True).wait_for()
        admin = await console.admin()
        os.kill(admin, signal.SIGSTOP)
        try:
            await page.get_by_text("no word for").wait_for()
        finally:
            # The supervisor starts another one.
            os.kill(admin, signal.SIGKILL)
        await page.get_by_text("live", exact=True).wait_for()
        assert watched.outside == []
