"""Describes a request without sending it."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

T = TypeVar("T")

# Seconds that one attempt may take. The server answers or gives up within 5 s; the rest is for the network.
ATTEMPT_SECONDS_MAX = 10.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
# The token of an API key: servers and balancers log URLs, so none may contain one.
_TOKEN = re.compile(r"tsk_[0-9a-f]{1,16}_[0-9a-f]{16}_[0-9a-f]{72}")


class Repeat(Enum):
    """Why a request whose answer was lost may or may not be sent again."""

    READ = "it changes nothing"
    KEYED = "it is done once under its key, or under the id that it names"
    NOTHING = "it would be done again"


@dataclass(frozen=True, kw_only=True, repr=False)
class Request(Generic[T]):
    """
    A request.

    Attributes:
        method: The HTTP method.

        path: The path below the address of the server.

        answer: The type as which the body of a success is decoded.

        parameters: The parameters of the query; those that are None are left out.

        body: The body to send as JSON; None for no body. It is copied, so that later changes by the caller have no
            effect.

        key: Sent as `Idempotency-Key`.

        item_keys: The keys of the items of a bulk.

        if_version: Sent as `If-Match`.

        repeat: Whether it may be sent again after its answer was lost.

        seconds_max: The time one attempt may take.

        content: The bytes of the body, the same in every attempt.

    Raises:
        ValueError: A number of the body is not finite, or the URL would contain the token of an API key.
    """

    method: str
    path: str
    answer: type[T]
    parameters: Mapping[str, object] = field(default_factory=dict)
    body: Mapping[str, object] | None = None
    key: str | None = None
    item_keys: tuple[str, ...] = ()
    if_version: int | None = None
    repeat: Repeat = Repeat.READ
    seconds_max: float = ATTEMPT_SECONDS_MAX
    content: bytes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        texts = {name: _text(value) for name, value in self.parameters.items() if value is not None}
        object.__setattr__(self, "parameters", texts)
        if any(map(_TOKEN.search, (self.path, *texts.values()))):
            raise ValueError("an API key is secret and belongs in no URL: name a thing by its id")
        if self.body is not None:
            copy = msgspec.to_builtins(self.body, str_keys=True)
            object.__setattr__(self, "body", copy)
            # Not msgspec: it would encode NaN as null, and an amount of null captures all that remains.
            content = json.dumps(copy, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            object.__setattr__(self, "content", content)

    def __repr__(self) -> str:
        return f"{self.method} {self.target}"

    @property
    def target(self) -> str:
        """The path with its query."""
        return f"{self.path}?{urlencode(self.parameters, quote_via=quote)}" if self.parameters else self.path

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of this request."""
        headers = {}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.key is not None:
            headers["Idempotency-Key"] = self.key
        if self.if_version is not None:
            headers["If-Match"] = f'"{self.if_version}"'
        return headers


def get(path: str, answer: type[T], seconds_max: float = ATTEMPT_SECONDS_MAX, **parameters: object) -> Request[T]:
    """Return a read. An underscore at the end of a parameter's name is removed: `from_` becomes `from`."""
    named = {name.removesuffix("_"): value for name, value in parameters.items()}
    return Request(method="GET", path=path, answer=answer, parameters=named, seconds_max=seconds_max)


def new_key() -> str:
    """Return a new, unique idempotency key."""
    return str(uuid.uuid4())


def checked_key(key: str) -> str:
    """
    Return an idempotency key if it is valid.

    Raises:
        ValueError: It is not.
    """
    if not _KEY.fullmatch(key):
        raise ValueError("an idempotency key must have 1 to 255 visible ASCII characters")
    return key


def segment(name: str) -> str:
    """
    Return a name as a segment of a path.

    Raises:
        TypeError: It is not a text.

        ValueError: It is empty, which would make a different path.
    """
    if not isinstance(name, str):
        raise TypeError(f"an id must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("an id must not be empty")
    # A segment of dots alone would mean a step upwards.
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def members(**given: object) -> dict[str, object]:
    """Return the members of a body that are not None; the server uses its defaults for the others."""
    return {
        name: instant(value) if isinstance(value, datetime) else value
        for name, value in given.items()
        if value is not None
    }


def changes(**given: object) -> dict[str, object]:
    """Return the members to change: None is a value, and UNSET leaves a member unchanged."""
    return {
        name: instant(value) if isinstance(value, datetime) else value
        for name, value in given.items()
        if value is not msgspec.UNSET
    }


def instant(at: datetime) -> str:
    """
    Return an instant as RFC 3339 in UTC.

    Raises:
        ValueError: It has no time zone, so it could mean many instants.
    """
    if at.tzinfo is None:
        raise ValueError(f"an instant needs a time zone: {at.isoformat()}")
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text(value: Any) -> str:
    return instant(value) if isinstance(value, datetime) else str(value)
