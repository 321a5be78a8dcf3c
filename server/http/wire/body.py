"""Request bodies: reads them within limits and decodes them strictly, with a pointer to what is wrong."""

import asyncio
import json
import re
from json.scanner import make_scanner
from typing import Any, TypeVar

import msgspec
from aiohttp import StreamReader
from aiohttp.http_exceptions import HttpProcessingError

from server.http import models
from server.http.call import Call
from server.http.limits import BODY_DEADLINE_SECONDS
from server.http.problems import Problem, invalid

T = TypeVar("T")

# The way in which most clients announce JSON.
PLAIN_JSON = "application/json"
_AT = re.compile(r" - at `(?P<key>key` in `)?\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_FIELD = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)
# Characters of a member's name that an error message repeats.
_NAME_SHOWN_MAX = 64


async def read_body(call: Call, limit: int) -> bytes:
    """
    Return the body of a JSON request, waiting for it if need be.

    Args:
        limit: The most bytes that the body may have.

    Raises:
        Problem: Its headers do not say JSON, it is too large, it does not arrive in time, or the request has an
            idempotency key where none is taken.
        QueueFullError: Too many bytes of bodies are arriving already.
    """
    headers = call.headers
    if call.route is not None and call.route.bodiless and _is_absent(call):
        _refuse_key(call)
        return b""
    content_type = headers.get("Content-Type", "")
    if content_type != PLAIN_JSON:
        media, _, parameters = content_type.partition(";")
        charset = parameters.strip().lower().replace('"', "")
        if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
            raise Problem("unsupported_media_type")
    if "Content-Encoding" in headers and not _is_plain(headers.getall("Content-Encoding")):
        raise Problem("unsupported_media_type", "Compressed bodies are not accepted: send the body uncompressed.")
    length = _length(call)
    if length is not None and length > limit:
        raise Problem("body_too_large", f"The body has more than {limit} bytes.")
    _refuse_key(call)
    content = call.content
    if isinstance(content, bytes):
        return content
    if content.is_eof():
        body = content.read_nowait()
    else:
        async with call.admission.arriving(limit if length is None else length, write=call.write):
            body = await _read_slowly(call, content, limit)
    if len(body) > limit:
        raise Problem("body_too_large", f"The body has more than {limit} bytes.")
    return body


def _is_plain(codings: list[str]) -> bool:
    """Return whether these content codings leave the body as it is."""
    return all(coding.strip().lower() == "identity" for coding in ",".join(codings).split(","))


def _refuse_key(call: Call) -> None:
    """
    Refuse an idempotency key where none is taken.

    Raises:
        Problem: The request has an idempotency key and its route takes none.
    """
    keyless = None if call.route is None else call.route.keyless
    if keyless is not None and call.idempotency_key is not None:
        detail = f"Send the request without the header. {keyless}"
        raise Problem("idempotency_key_not_taken", detail, errors=[("Idempotency-Key", detail)])


def _is_absent(call: Call) -> bool:
    """Return whether a request has no body, so that its Content-Type does not matter."""
    return not _length(call) and "Transfer-Encoding" not in call.headers


def _length(call: Call) -> int | None:
    """Return the number of bytes of the body, counted or announced; None if it has no Content-Length."""
    if isinstance(call.content, bytes):
        return len(call.content)
    announced = call.headers.get("Content-Length")
    return None if announced is None else int(announced)


async def _read_slowly(call: Call, content: StreamReader, limit: int) -> bytes:
    """Read a body that has not arrived yet, and stop at the first piece that exceeds the limit."""
    transport = call.connection.transport
    if call.headers.get("Expect", "").lower() == "100-continue" and transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            while len(parts) <= limit:
                part = await content.readany()
                if not part:
                    break
                parts += part
    except TimeoutError:
        raise Problem("request_timeout", "The whole body did not arrive in time.") from None
    except HttpProcessingError:
        raise Problem("malformed_request", "The framing of the body does not match the headers.") from None
    return bytes(parts)


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """
    Return the value that *decoder* decodes from *body*.

    Raises:
        Problem: The body is not JSON in UTF-8, repeats a member, holds a NUL, or has the wrong shape.
    """
    try:
        value = decoder.decode(body)
        _refuse_repeated_members(body)
        if b"\\u0000" in body:
            _refuse_nul(body)
    except msgspec.ValidationError as error:
        raise shape_problem(error, text=body) from None
    except (ValueError, RecursionError):
        raise invalid("", "The body is not JSON in UTF-8.") from None
    return value


def shape_problem(
    error: msgspec.ValidationError, prefix: str = "", *, text: "bytes | msgspec.Raw | None" = None
) -> Problem:
    """
    Return the problem that a decoder's message describes, with a JSON pointer below *prefix*.

    Args:
        text: The JSON that was decoded. It serves to find members of free name, which the message does not name.
    """
    message = str(error)
    pointer = prefix
    at = _AT.search(message)
    if at is not None:
        message = message[: at.start()]
        path = at["path"].removesuffix("[...]")
        for step in _STEP.finditer(path):
            pointer += "/" + (step[1] or step[2])
        if text is not None and (at["key"] or path != at["path"]):
            name = _free_name(bytes(text), path, message)
            pointer = pointer if name is None else _below(pointer, name)
    named = _FIELD.match(message)
    if named is not None:
        pointer = _below(pointer, named["name"])
        message = "The field is required." if "missing" in message[:16] else "The field is unknown."
    elif at is not None and at["key"]:
        message = "A key: " + message
    return invalid(pointer, message.replace("`", ""))


def _free_name(text: bytes, path: str, message: str) -> str | None:
    """Return the name of the member, of the object at *path*, that *message* is about; None if it is not found."""
    try:
        found: Any = json.loads(text, object_pairs_hook=_Members)
        for step in _STEP.finditer(path):
            found = found[int(step[2])] if step[2] else dict(found)[step[1]]
        for name, value in found:
            member = dict(value) if isinstance(value, _Members) else value
            for kind in (models.Metadata, models.MetadataPatch):
                try:
                    msgspec.convert({name: member}, kind)
                except msgspec.ValidationError as error:
                    if _AT.sub("", str(error)) == message:
                        return str(name)
    except (ValueError, LookupError, TypeError, RecursionError):
        # The text behind the member may be no JSON at all.
        pass
    return None


def _below(pointer: str, step: str | int) -> str:
    """Return *pointer* with one more step, escaped (RFC 6901) and cut if it is long."""
    return f"{pointer}/{str(step)[:_NAME_SHOWN_MAX].replace('~', '~0').replace('/', '~1')}"


class _RepeatedMemberError(Exception):
    pass


def _unique_members(pairs: list[tuple[str, object]]) -> None:
    if len({pair[0] for pair in pairs}) < len(pairs):
        raise _RepeatedMemberError


# Only Python's own decoder shows repeated members. It accepts more than JSON (NaN), so it runs after the strict decoder
# and its result is not used. Its scanner alone costs a third of `loads`.
_scan = make_scanner(
    json.JSONDecoder(object_pairs_hook=_unique_members)  # type: ignore[arg-type]  # typeshed takes the context for itself
)


def _refuse_repeated_members(body: bytes) -> None:
    try:
        _scan(body.decode().lstrip(), 0)
    except _RepeatedMemberError:
        _find_repeated(json.loads(body, object_pairs_hook=_Members), "")


class _Members(list[tuple[str, object]]):
    """The members of an object, including repeated ones."""


def _find_repeated(value: object, pointer: str) -> None:
    if isinstance(value, _Members):
        seen = set()
        for name, member in value:
            below = _below(pointer, name)
            if name in seen:
                raise invalid(below, "The field is repeated.")
            seen.add(name)
            _find_repeated(member, below)
    elif isinstance(value, list):
        for number, member in enumerate(value):
            _find_repeated(member, _below(pointer, number))


def _refuse_nul(body: bytes) -> None:
    """Refuse a string that holds a NUL, which JSON can express and Postgres cannot store."""

    def search(value: object, pointer: str) -> None:
        if isinstance(value, str):
            if "\x00" in value:
                raise invalid(pointer, "The text contains a NUL character.")
        elif isinstance(value, dict):
            for name, member in value.items():
                search(name, pointer)
                search(member, _below(pointer, name))
        elif isinstance(value, list):
            for number, member in enumerate(value):
                search(member, _below(pointer, number))

    search(json.loads(body), "")
