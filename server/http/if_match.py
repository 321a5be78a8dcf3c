"""If-Match (RFC 9110, section 13.1.1): the versions that a change may be made to."""

import re

from server.http.call import Call
from server.http.problems import invalid

# A tag is anything visible between quotes; characters past ASCII may stand in it.
_TAG = r'(?:W/)?"[^\x00-\x20"\x7f]*"'
_TAGS = re.compile(rf"(?:[ \t]*,)*[ \t]*{_TAG}[ \t]*(?:,[ \t]*(?:{_TAG}[ \t]*)?)*")
# A strong tag as ETag gives it; a weak one is none, and matches nothing.
_VERSION = re.compile(r'(?<!W/)"([1-9][0-9]{0,17})"')


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
