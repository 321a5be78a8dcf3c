"""
Write the OpenAPI document of the code to docs/reference/openapi.json, which tests compare with the code.

With `--release` also write it as the document of the last release, from which nothing may be removed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from server.http.openapi import document  # noqa: E402 -- found by the line above

FOLDER = ROOT / "docs" / "reference"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--release"]):
        print(__doc__, file=sys.stderr)
        return 2
    for name in ("openapi.json", *(("openapi-released.json",) if arguments else ())):
        (FOLDER / name).write_bytes(document())
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
