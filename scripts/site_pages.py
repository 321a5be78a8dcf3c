"""
Add pages to those of docs/ when MkDocs builds the site: the reference made from the code, and files of the repository.

A page may link to any file of the repository, for example `../../deploy/haproxy.cfg`. The site does not include the
repository, so it gets a copy of each file that is linked to. A link to a missing file stays and fails the build.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = "docs/"
# The interpreter that makes the reference: it has the service's packages.
PYTHON: Final = ROOT / ".venv" / "bin" / "python"
REFERENCE_SECONDS_MAX: Final = 60
# Pages outside docs/.
PAGES: Final = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks.md", "client/README.md")
# The site's folder for copies of files that are not pages; they end in .txt, so that browsers show them.
COPIES: Final = "repository/"
_LINK: Final = re.compile(r"(?<=\]\()(?P<path>[\w./-]+)(?P<anchor>#[\w-]+)?(?=\))")
_TITLE: Final = re.compile(r"^# (.+)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and the files that pages link to."""
    pages = {**_reference(), "decisions/index.md": _decisions()}
    pages.update({name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES})
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for file in files.documentation_pages():
        for path in _targets(file.src_uri, file.content_string):
            uri = _uri(path)
            if uri.startswith(COPIES) and uri not in files.src_uris and (ROOT / path).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Change links to files of the repository into links to their copies in the site."""
    folder = _repository_path(page.file.src_uri).parent

    def moved(match: re.Match[str]) -> str:
        uri = _uri(normpath(folder / match["path"]))
        if uri not in files.src_uris:
            return match[0]
        return f"{get_relative_url(uri, page.file.src_uri)}{match['anchor'] or ''}"

    return _LINK.sub(moved, markdown)


def _repository_path(uri: str) -> PurePosixPath:
    """Return the path of a page in the repository."""
    return PurePosixPath(uri if uri in PAGES else DOCS + uri)


def _uri(path: str) -> str:
    """Return the path in the site of a file of the repository."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return path if path in PAGES else f"{COPIES}{path}.txt"


def _targets(uri: str, text: str) -> Iterator[str]:
    """Yield the files of the repository that a page links to."""
    folder = _repository_path(uri).parent
    for match in _LINK.finditer(text):
        yield normpath(folder / match["path"])


def _reference() -> dict[str, str]:
    """Return the pages that are made from the code."""
    command = [str(PYTHON), "-m", "scripts.reference"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=REFERENCE_SECONDS_MAX, check=False
        )
    except FileNotFoundError:
        raise PluginError("there is no .venv: run `make docs`, which makes it") from None
    if done.returncode != 0:
        raise PluginError(f"scripts/reference.py failed:\n{done.stderr}")
    pages: dict[str, str] = json.loads(done.stdout)
    return pages


def _decisions() -> str:
    """Return the list of decision records."""
    lines = []
    for path in sorted((ROOT / DOCS / "decisions").glob("[0-9]*.md"), reverse=True):
        title = _TITLE.search(path.read_text(encoding="utf-8"))
        if title is not None and not path.name.startswith("0000"):
            lines.append(f"- [{title[1]}]({path.name})")
    return "# Decisions\n\nWhy it is so, a page each, newest first.\n\n" + "\n".join(lines) + "\n"
