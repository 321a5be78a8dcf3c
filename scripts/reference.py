"""
Print the pages of the reference that are made from the code, as JSON by name.

scripts/site_pages.py runs this with the service's packages and adds the pages to the site.
"""

import json
import sys
from typing import Any, Final

import msgspec

from scripts import http_reference
from server.cli import reference as command_line
from server.http.openapi import document
from server.http.problems import KINDS
from server.settings import HELP, PREFIX, Settings

SETTINGS: Final = f"""\
Each is a variable `{PREFIX}` and its name in capitals, a file that `{PREFIX}<NAME>_FILE` names, or an argument of
`tallystick serve`. `tallystick config` shows the values in force and where each came from."""
PROBLEMS: Final = """\
Every error is `application/problem+json` (RFC 9457) with one of these codes. On a write `outcome` says whether it was
done, and `retry` which idempotency key to send next: [Exactly once](../explanations/exactly-once.md). A running server
has the same pages at `/problems`."""
# Escapes bars, which would end a column of a table.
_BAR: Final = str.maketrans({"|": r"\|", "\n": " "})


def settings() -> str:
    """Return the page of the settings."""
    schema = msgspec.json.schema(Settings)
    fields: dict[str, dict[str, Any]] = schema["$defs"]["Settings"]["properties"]
    lines = [
        "# Settings",
        "",
        SETTINGS,
        "",
        "| setting | default | range | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in fields.items():
        default = "" if field["default"] in (None, "") else f"`{json.dumps(field['default']).strip(chr(34))}`"
        span = f"{field['minimum']:,} to {field['maximum']:,}" if "minimum" in field else ""
        secret = " A secret: it is never shown." if HELP[name].secret else ""
        lines.append(f"| `{name}` | {default} | {span} | {HELP[name].text.translate(_BAR)}{secret} |")
    return "\n".join(lines) + "\n"


def problems() -> str:
    """Return the page of the problems."""
    lines = [
        "# Problems",
        "",
        PROBLEMS,
    ]
    for code, kind in KINDS.items():
        lines += ["", f"## {code}", "", f"**{kind.status} {kind.title}** · retry: `{kind.retry}`", "", kind.text]
    return "\n".join(lines) + "\n"


def http_api() -> str:
    """Return the page of the HTTP API."""
    return http_reference.page(json.loads(document()))


PAGES: Final = {
    "reference/http-api.md": http_api,
    "reference/problems.md": problems,
    "reference/settings.md": settings,
    "reference/command-line.md": command_line.page,
}

if __name__ == "__main__":
    json.dump({name: page() for name, page in PAGES.items()}, sys.stdout)
