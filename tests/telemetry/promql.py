"""A simple parser for PromQL that checks brackets and finds names."""

import re
from typing import NamedTuple

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# A duration, a variable of a dashboard, or a number.
_LITERAL = re.compile(r"\[[^\]]*\]|\$__?\w+|\b\d[\w.]*")
_NAME = re.compile(r"[a-zA-Z_][\w:]*")
_MATCHER = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"\"")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_PAIRS = {")": "(", "]": "[", "}": "{"}
WORDS = {
    *("and", "or", "unless", "by", "without", "on", "ignoring", "bool", "offset"),
    *("sum", "max", "min", "count", "avg", "rate", "increase", "histogram_quantile", "absent", "time"),
}


class Names(NamedTuple):
    """The names of series and of labels in an expression."""

    series: set[str]
    labels: set[str]


def names(expression: str) -> Names:
    """
    Return the names in an expression.

    Raises:
        ValueError: Its brackets do not match, or a string has no end.
    """
    bare = _STRING.sub('""', expression)
    if bare.count('"') % 2:
        raise ValueError("a string is not ended")
    open_ones: list[str] = []
    for sign in bare:
        if sign in _PAIRS.values():
            open_ones.append(sign)
        elif sign in _PAIRS and (not open_ones or open_ones.pop() != _PAIRS[sign]):
            raise ValueError("brackets do not match")
    if open_ones:
        raise ValueError("brackets do not match")
    labels = set(_MATCHER.findall(bare))
    for group in _GROUPING.findall(bare):
        labels |= {label.strip() for label in group.split(",")}
    rest = re.sub(r"\{[^}]*\}", "", _GROUPING.sub("", bare))
    return Names(set(_NAME.findall(_LITERAL.sub("", rest))) - WORDS, labels)
