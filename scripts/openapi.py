"""
Write the OpenAPI document of the code where the repository keeps it, for tests to compare with.

With `--release` it becomes that of the last release as well, from which nothing may be taken away.
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
