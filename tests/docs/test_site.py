"""The documentation site, as `make docs` builds it."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from server.http.problems import KINDS
from server.http.routes import ROUTES
from server.settings import Settings
from tests.support.browser import Chromium

ROOT = Path(__file__).resolve().parents[2]
# The first time, the packages of the site are fetched.
SETUP_SECONDS_MAX = 600
BUILD_SECONDS_MAX = 60
# What a browser asks for by itself when it shows a page; `a` is what a reader clicks.
FETCHED = re.compile(r"^(?:https?:)?//")
IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")
# Files of docs/ that a text names, and the texts that do.
TEXTS = {"", ".cfg", ".conf", ".md", ".py", ".sh", ".sql", ".toml", ".yaml", ".yml"}
NAMED = re.compile(r"(?<![\w/.])docs/[\w/-]+\.(?:md|svg|png|json)")

pytestmark = pytest.mark.timeout(SETUP_SECONDS_MAX + BUILD_SECONDS_MAX)


def build(checkout: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Build the site of a checkout."""
    return subprocess.run(
        [ROOT / ".venv-docs" / "bin" / "mkdocs", "build", *arguments],
        cwd=checkout,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS_MAX,
    )


@pytest.fixture(scope="module")
def packages() -> None:
    """The packages of the site; fetched when they are not there, so that nothing is skipped."""
    command = [sys.executable, "scripts/bootstrap.py", "docs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SETUP_SECONDS_MAX)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link that leads nowhere fails it."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, "--site-dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    """The addresses that a browser asks for when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: "list[tuple[str, str | None]]") -> None:
        names = ("src", "srcset", "data", "poster") if tag == "a" else ("src", "srcset", "data", "poster", "href")
        self.addresses += [value for name, value in attrs if name in names and value]


def fetched(page: Path) -> list[str]:
    """Return what a page makes a browser ask for."""
    parser = Fetched()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.addresses


def test_nothing_outside_is_asked_for(site: Path) -> None:
    """No page and no style has an image, a script, a font or a style of another host."""
    pages = list(site.rglob("*.html"))
    assert sum(len(fetched(page)) for page in pages) > len(pages)
    found = {page.name: [one for one in fetched(page) if FETCHED.match(one)] for page in pages}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}
    assert [style.name for style in site.rglob("*.css") if IN_STYLES.search(style.read_text(encoding="utf-8"))] == []


@pytest.fixture
async def address(site: Path) -> AsyncIterator[str]:
    """The site, served on this machine."""
    app = web.Application()
    app.router.add_static("/", site)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_a_browser_asks_nobody_else(address: str, chromium: Chromium) -> None:
    """Scripts of the pages ask for nothing outside either, the search among them; a narrow page has no bar below it."""
    async with chromium.page(address, size=(400, 800)) as watched:
        page = watched.page
        for name in ("index", "tutorial", "explanations/cache", "reference/http-api"):
            await page.goto(f"{address}{name}.html")
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        await page.goto(f"{address}index.html?q=idempotency")
        await page.locator(".md-search-result__link").first.wait_for(state="attached")
        watched.check()


def test_the_reference_is_made_of_the_code(site: Path) -> None:
    """Each operation, setting, problem and command has its place."""
    reference = site / "reference"
    api = (reference / "http-api.html").read_text(encoding="utf-8")
    assert [route.operation for route in ROUTES if f'id="{route.operation}"' not in api] == []
    problems = (reference / "problems.html").read_text(encoding="utf-8")
    assert [code for code in KINDS if f'id="{code}"' not in problems] == []
    settings = (reference / "settings.html").read_text(encoding="utf-8")
    assert [name for name in Settings.__struct_fields__ if f"<code>{name}</code>" not in settings] == []
    assert 'id="serve"' in (reference / "command-line.html").read_text(encoding="utf-8")


LINKS = {
    "0002-no-such-page.md": "the target 'decisions/0002-no-such-page.md' is not found",
    "../reference/metrics.md#no-such-heading": "does not contain an anchor '#no-such-heading'",
    "../../deploy/no-such-file.cfg": "the target '../deploy/no-such-file.cfg' is not found",
    "../../CONTRIBUTING.md#none": "the doc 'CONTRIBUTING.md' does not contain an anchor '#none'",
    "#nowhere": "there is no such anchor on this page",
}


def test_links_to_nothing_fail_the_build(packages: None, tmp_path: Path) -> None:
    """The build fails and names them: pages, headings, files of the repository."""
    folder = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / "docs" / "decisions" / "9999-draft.md").write_text("".join(f"[a link]({link})\n" for link in LINKS))
    done = build(folder)
    assert done.returncode != 0
    assert [said for said in LINKS.values() if said not in done.stderr] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    """The README is no page of the site: its links are files of the repository."""
    links = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_files_that_are_named_are_there() -> None:
    """Code, configuration and texts name files of docs/ that exist."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = (path for name in listed.split("\0") if name and (path := ROOT / name).suffix in TEXTS and path.is_file())
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts
        for name in NAMED.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / name).is_file()
    }
    assert found == set()
