"""Entity tags (RFC 9110, section 8.8.3): of documents, and what If-Match and If-None-Match say of them."""

import hashlib
import re
from functools import cache

from server.http.call import Call
from server.http.problems import invalid

# A tag is anything visible between quotes; characters past ASCII may stand in it.
_TAG = r'(?:W/)?"[^\x00-\x20"\x7f]*"'
_TAGS = re.compile(rf"(?:[ \t]*,)*[ \t]*{_TAG}[ \t]*(?:,[ \t]*(?:{_TAG}[ \t]*)?)*")
# A strong tag as ETag gives it; a weak one is none, and matches nothing.
_VERSION = re.compile(r'(?<!W/)"([1-9][0-9]{0,17})"')
# A tag as callers keep it: a weak one is as good as a strong one.
_KEPT = re.compile(r'(?:W/)?"([^"]*)"')
# Of the hash of a document: enough to tell two of them apart.
_TAG_DIGITS = 16


@cache
def tag_of(document: bytes) -> str:
    """Return the entity tag of a document, which is one of a few. That of an account is its version."""
    return hashlib.sha256(document).hexdigest()[:_TAG_DIGITS]


def names_tag(given: str, tag: str) -> bool:
    """Return whether If-None-Match names a tag: then the answer that the caller keeps still holds."""
    return given.strip() == "*" or tag in _KEPT.findall(given)


def read_if_match(call: Call) -> list[int] | None:
    """
    Return the versions that If-Match names, of which one has to be the account's; None when any will do.

    Raises:
        Problem: It is no list of entity tags.
    """
    given = call.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    if not _TAGS.fullmatch(given):
        raise invalid("If-Match", "Entity tags are expected, as ETag gave them, or an asterisk.")
    return [int(version) for version in _VERSION.findall(given)]
