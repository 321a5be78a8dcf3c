"""What others have made of the console: its licence is there, and it is what its manifest says."""

import hashlib
import json

from server.process.console.files import ROOT

FOLDER = ROOT / "vendor" / "uplot"


def test_it_is_what_the_manifest_says() -> None:
    """Each file is the published one of that version, byte for byte."""
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("uPlot*")}
    assert sums == manifest["sha256"]
    assert f"(v{manifest['version']})" in (FOLDER / "uPlot.iife.min.js").read_text()[:100]
    assert (FOLDER / "LICENSE").read_text().startswith("The MIT License")


def test_nothing_is_asked_of_others() -> None:
    """No file of ours names another server, and none has a script or style within a page."""
    for path in ROOT.rglob("*"):
        if path.is_file() and FOLDER not in path.parents:
            text = path.read_text()
            assert "//" not in text.replace("://www.w3.org/2000/svg", "").replace("// ", ""), path
            assert "style=" not in text, path
            assert "innerHTML" not in text, path
    page = (ROOT / "index.html").read_text()
    assert page.count("<script") == page.count("<script src=")
