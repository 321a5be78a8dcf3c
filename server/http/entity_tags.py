"""Entity tags (RFC 9110, section 8.8.3): tags of documents, and the fields If-Match and If-None-Match."""

import hashlib
import re
from functools import cache

from server.http.call import Call
from server.http.problems import invalid

# A tag is any visible text between quotes, and may hold characters beyond ASCII.
_TAG = r'(?:W/)?"[^\x00-\x20"\x7f]*"'
_TAGS = re.compile(rf"(?:[ \t]*,)*[ \t]*{_TAG}[ \t]*(?:,[ \t]*(?:{_TAG}[ \t]*)?)*")
# A strong tag as ETag gives it. If-Match compares strongly, so a weak tag matches nothing.
_VERSION = re.compile(r'(?<!W/)"([1-9][0-9]{0,17})"')
# A tag in If-None-Match, where a weak tag is as good as a strong one.
_KEPT = re.compile(r'(?:W/)?"([^"]*)"')
# Digits of a document's hash in its tag: enough to distinguish two documents.
_TAG_DIGITS = 16


@cache
def tag_of(document: bytes) -> str:
    """Return the entity tag of a document, cached, because there are few. (The tag of an account is its version.)"""
    return hashlib.sha256(document).hexdigest()[:_TAG_DIGITS]


def names_tag(given: str, tag: str) -> bool:
    """Return whether If-None-Match names a tag, so that the caller's copy of the answer still holds."""
    return given.strip() == "*" or tag in _KEPT.findall(given)


def read_if_match(call: Call) -> list[int] | None:
    """
    Return the versions in If-Match, one of which must be the account's; None if any version will do.

    Raises:
        Problem: The field is not a list of entity tags.
    """
    given = call.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    if not _TAGS.fullmatch(given):
        raise invalid("If-Match", "Entity tags, as given in ETag, or an asterisk are expected.")
    return [int(version) for version in _VERSION.findall(given)]
