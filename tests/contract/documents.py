"""The OpenAPI documents in the repository: that of the current code, and that of the last release."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parents[2] / "docs" / "reference"
CURRENT: Final = _FOLDER / "openapi.json"
RELEASED: Final = _FOLDER / "openapi-released.json"
