"""Request targets and the texts in their paths."""

import re
from typing import Final
from urllib.parse import unquote

# The beginning of a target in absolute form, which names the server too: RFC 9112, section 3.2.2.
_ABSOLUTE: Final = re.compile(r"https?://[^/?]*", re.IGNORECASE)


def origin_form(target: str) -> str:
    """Return a request's target without scheme and authority."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest[:1] == "/" else "/" + rest


def path_text(segment: str) -> str:
    """Return a path segment with its percent-escapes decoded; if it is not UTF-8, the result is empty."""
    if "%" not in segment:
        return segment
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return ""
