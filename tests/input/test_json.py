"""Broken JSON in every place that takes JSON is refused with a pointer, writes nothing and binds no key."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.input import places
from tests.input.broken_values import NOT_JSON, WRONG_CURRENCIES, WRONG_IDS, WRONG_NUMBERS, WRONG_TEXTS
from tests.input.conftest import Book
from tests.input.places import BODIES, NUMBERS, OBJECTS, TEXTS, Place, Spot, refusal
from tests.support.client import Client
from tests.support.service import Service

_keys = itertools.count(1)


@pytest.fixture
async def unchanged(book: Book) -> AsyncIterator[None]:
    """Check that the test leaves all rows of the ledger unchanged, bound keys included."""
    before = await book.rows()
    yield
    assert await book.rows() == before


def _outer(spot: Spot) -> str:
    """Return the pointer to a spot's metadata: the error for an entry of a wrong type does not name the entry."""
    return spot.pointer.removesuffix("/note")


async def refused(book: Book, place: Place, body: bytes) -> Any:
    """Send a body that must be refused, and return its one error."""
    answer = await place.send(book.client, body, f"broken-{next(_keys)}")
    problem = refusal(answer)
    assert problem["status"] == 400, answer
    assert problem["code"] in ("invalid_request", "idempotency_key_missing", "idempotency_key_invalid")
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "never")
    assert answer.headers["X-Request-Id"] == problem["request_id"]
    (error,) = problem["errors"]
    assert error["detail"]
    return error


@pytest.mark.parametrize("value", NOT_JSON)
@pytest.mark.usefixtures("unchanged")
async def test_what_is_not_json_is_refused_as_a_whole(book: Book, value: bytes) -> None:
    """Text that is not JSON in UTF-8 is refused, with a pointer to the body or to the field."""
    for spot in (*NUMBERS, *TEXTS):
        assert (await refused(book, spot.place, spot.body(value)))["pointer"] in ("", spot.pointer, _outer(spot))


@pytest.mark.parametrize("value", WRONG_NUMBERS)
@pytest.mark.usefixtures("unchanged")
async def test_a_number_is_an_integer_of_64_bits(book: Book, value: bytes) -> None:
    """Everything but an integer of 64 bits, in integer notation, is refused with the name of its field."""
    for spot in NUMBERS:
        assert (await refused(book, spot.place, spot.body(value)))["pointer"] == spot.pointer


@pytest.mark.usefixtures("unchanged")
async def test_a_number_of_5000_digits_is_refused(book: Book) -> None:
    """A number with more digits than Python converts is refused; in a bulk it makes the whole body invalid."""
    for spot in NUMBERS:
        error = await refused(book, spot.place, spot.body(b"1" * 5000))
        assert error["pointer"] == ("" if spot.place.pointer else spot.pointer)


@pytest.mark.parametrize("value", [b"0", b"-0", b"-1", b"-9223372036854775808", b"null"])
@pytest.mark.usefixtures("unchanged")
async def test_an_amount_is_positive(book: Book, value: bytes) -> None:
    """A zero, negative or missing amount is refused."""
    for spot in [spot for spot in NUMBERS if spot.pointer.endswith("/amount")]:
        assert (await refused(book, spot.place, spot.body(value)))["pointer"] == spot.pointer


@pytest.mark.parametrize("value", WRONG_TEXTS)
@pytest.mark.usefixtures("unchanged")
async def test_a_text_is_a_text_without_nul(book: Book, value: bytes) -> None:
    """Other types, NUL and texts beyond their length are refused with the name of the field."""
    for spot in TEXTS:
        pointer = (await refused(book, spot.place, spot.body(value)))["pointer"]
        assert pointer in (spot.pointer, _outer(spot))


@pytest.mark.parametrize("value", WRONG_IDS)
@pytest.mark.usefixtures("unchanged")
async def test_an_account_id_keeps_its_form(book: Book, value: bytes) -> None:
    """Account ids are ASCII of a fixed form, to their last character."""
    for spot in places.IDS:
        assert (await refused(book, spot.place, spot.body(value)))["pointer"] == spot.pointer


@pytest.mark.parametrize("value", WRONG_CURRENCIES)
@pytest.mark.usefixtures("unchanged")
async def test_a_currency_keeps_its_form(book: Book, value: bytes) -> None:
    """Currencies are three to eight upper-case ASCII letters or digits."""
    for spot in places.CURRENCIES:
        assert (await refused(book, spot.place, spot.body(value)))["pointer"] == spot.pointer


@pytest.mark.parametrize(
    "value", [b'""', b"null", b'"a b"', b'"a\\n"', '"\u00e9"'.encode(), b'"' + b"a" * 256 + b'"', b'"a\\u007f"']
)
@pytest.mark.usefixtures("unchanged")
async def test_the_key_of_an_item_is_visible_ascii(book: Book, value: bytes) -> None:
    """Keys in a bulk follow the header's rule."""
    for spot in places.KEYS:
        assert (await refused(book, spot.place, spot.body(value)))["pointer"] == spot.pointer


@pytest.mark.parametrize("place", [pytest.param(place, id=place.name) for place in OBJECTS])
@pytest.mark.parametrize(
    ("metadata", "pointer"),
    [
        pytest.param("{" + ",".join(f'"k{n}":"v"' for n in range(51)) + "}", "", id="51 entries"),
        pytest.param('{"' + "k" * 41 + '":"v"}', "/" + "k" * 41, id="a key of 41"),
        pytest.param('{"k":"' + "v" * 501 + '"}', "/k", id="a value of 501"),
        pytest.param('{"":"v"}', "/", id="an empty key"),
        pytest.param('{"a\\u0000":"v"}', "", id="NUL in a key"),
        pytest.param('{"a/b~c":"\\u0000"}', "/a~1b~0c", id="NUL in a value below a key to be escaped"),
        pytest.param('{"a":"1","k":1}', "/k", id="a number"),
        pytest.param('{"a/b~c":1}', "/a~1b~0c", id="a number below a key to be escaped"),
        pytest.param('{"k":{"k":"v"}}', "/k", id="an object inside"),
        pytest.param('{"k":"1","k":"2"}', "/k", id="a key twice"),
        pytest.param('{"k":"1","\\u006b":"2"}', "/k", id="a key twice, once escaped"),
        pytest.param("[]", "", id="a list"),
        pytest.param('"v"', "", id="a text"),
    ],
)
@pytest.mark.usefixtures("unchanged")
async def test_metadata_has_limits(book: Book, place: Place, metadata: str, pointer: str) -> None:
    """Metadata is an object of at most 50 short texts with short, unique names."""
    body = place.body(extra=f'"metadata":{metadata}').encode()
    found = (await refused(book, place, body))["pointer"]
    assert found == f"{place.pointer}/metadata{pointer}"


@pytest.mark.parametrize("place", [pytest.param(place, id=place.name) for place in (*OBJECTS, *BODIES)])
@pytest.mark.usefixtures("unchanged")
async def test_every_field_is_known(book: Book, place: Place) -> None:
    """An unknown field is refused with its name, escaped and cut."""
    for name, pointer in (
        ("surprise", "surprise"),
        ("a/b~", "a~1b~0"),
        ("Amount", "Amount"),
        ("__class__", "__class__"),
        ("x" * 3000, "x" * 64),
    ):
        error = await refused(book, place, place.body(extra=f'"{name}":1').encode())
        assert error["pointer"] == f"{place.pointer}/{pointer}"


@pytest.mark.parametrize(
    ("place", "field"),
    [
        pytest.param(place, field, id=f"{place.name} without {field}")
        for place in (*OBJECTS, places.BULK, places.ACCOUNT_BULK)
        for field in place.required
    ],
)
@pytest.mark.usefixtures("unchanged")
async def test_required_fields_are_required(book: Book, place: Place, field: str) -> None:
    """A required field is named if it is missing, and refused if it is null or comes twice."""
    pointer = f"{place.pointer}/{field}"
    assert (await refused(book, place, place.body(without=field).encode()))["pointer"] == pointer
    null = place.body(without=field, extra=f'"{field}":null').encode()
    assert (await refused(book, place, null))["pointer"] == pointer
    twice = place.body(extra=f'"{field}":{place.members[field]}').encode()
    assert (await refused(book, place, twice))["pointer"] == pointer


@pytest.mark.parametrize("place", [pytest.param(place, id=place.name) for place in BODIES])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="white space"),
        pytest.param(b"null", id="null"),
        pytest.param(b"true", id="true"),
        pytest.param(b"1", id="a number"),
        pytest.param(b'"text"', id="a text"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"[" * 60_000, id="60,000 brackets"),
        pytest.param(b"[" * 30_000 + b"]" * 30_000, id="30,000 pairs of brackets"),
        pytest.param(b"{", id="unclosed"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="UTF-16"),
        pytest.param(b"\x00", id="NUL"),
        pytest.param(b"\x1f\x8b\x08\x00", id="gzip without saying so"),
    ],
)
@pytest.mark.usefixtures("unchanged")
async def test_a_body_is_one_object(book: Book, place: Place, text: bytes) -> None:
    """Any body that is not one JSON object is refused as a whole."""
    assert (await refused(book, place, text))["pointer"] == ""


@pytest.mark.parametrize("place", [pytest.param(place, id=place.name) for place in BODIES])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"\xef\xbb\xbf", b"", id="a byte order mark"),
        pytest.param(b"", b"x", id="a letter behind"),
        pytest.param(b"", b"{}", id="a second object"),
        pytest.param(b"", b"\x00", id="NUL behind"),
        pytest.param(b"", b",", id="a comma behind"),
        pytest.param(b"// note\n", b"", id="a comment"),
        pytest.param(b")]}'\n", b"", id="a guard against scripts"),
    ],
)
@pytest.mark.usefixtures("unchanged")
async def test_nothing_stands_beside_the_object(book: Book, place: Place, before: bytes, after: bytes) -> None:
    """A valid object with anything but white space around it is refused."""
    assert (await refused(book, place, before + place.body().encode() + after))["pointer"] == ""


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"{", id="what is no JSON"),
        pytest.param(b'"amount":0', id="what is of another shape"),
        pytest.param(b'"reference":"\\u0000"', id="what cannot be stored"),
        pytest.param(b'"destination":"world"', id="what can never be right"),
        pytest.param(b'"expires_in":5', id="what only a hold has"),
        pytest.param(b'"effective_at":"2999-01-01T00:00:00Z"', id="what has not come"),
        pytest.param(b'"state":"posted"', id="what is not offered"),
    ],
)
async def test_a_refused_body_binds_no_key(service: Service, ledger: str, broken: bytes) -> None:
    """After a 400 the same key posts once, as if it had never been used."""
    client = await service.client(ledger)
    await client.open("world", floor=None)
    await client.open("alice")
    for place, key in ((places.TRANSFER, "header-key"), (places.TRANSFER_ITEM, "item-key")):
        name = broken.decode().split('"')[1] if b":" in broken else ""
        body = place.body(without=name, extra=broken.decode()).encode() if name else broken
        assert refusal(await place.send(client, body, key))["status"] == 400
        assert (await client.get(f"/v1/idempotency-keys/{key}")).code == "idempotency_key_not_found"
        answer = await place.send(client, place.body().encode(), key)
        result = answer.json if place is places.TRANSFER else answer.json["results"][0]["transfer"]
        assert result["state"] == "posted"
        assert not answer.replayed
    assert await client.balance("alice") == 2


async def test_the_edges_of_64_bits_are_money(client: Client) -> None:
    """2^63-1 moves in one transfer, and -2^63 and 2^63-1 are valid limits of an account."""
    most, least = 2**63 - 1, -(2**63)
    assert (await client.open("world", floor=least)).json["floor"] == least
    assert (await client.open("all", ceiling=most)).json["ceiling"] == most
    answer = await client.transfer("world", "all", most)
    assert (answer.json["source_balance"], answer.json["destination_balance"]) == (-most, most)


async def test_a_broken_item_leaves_its_neighbours_alone(client: Client) -> None:
    """Each item of a bulk is checked on its own; in an atomic set one broken item stops all and binds no key."""
    await client.open("world", floor=None)
    await client.open("alice")

    def item(key: str, amount: object) -> dict[str, object]:
        return {"key": key, "source": "world", "destination": "alice", "amount": amount, "currency": "EUR"}

    for atomic, statuses in ((True, [409, 400, 409, 400]), (False, [201, 400, 201, 400])):
        items = [item("a", 1), item("b", 1.0), item("c", 1), item("d", True)]
        answer = await client.post("/v1/transfers/bulk", {"transfers": items, "atomic": atomic})
        assert [result["status"] for result in answer.json["results"]] == statuses
        problem = answer.json["results"][1]["problem"]
        assert problem["errors"][0]["pointer"] == "/transfers/1/amount"
        assert await client.balance("alice") == (0 if atomic else 2)
    assert (await client.get("/v1/idempotency-keys/b")).status == 404


@pytest.mark.parametrize("path", ["/v1/transfers/bulk", "/v1/accounts/bulk"])
@pytest.mark.parametrize("count", [0, 1001])
async def test_a_bulk_has_1_to_1000_items(book: Book, unchanged: None, path: str, count: int) -> None:
    """An empty bulk and a bulk with one item too many are refused as a whole."""
    name = path.split("/")[2]
    answer = await book.client.post(path, {name: [{}] * count})
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, f"/{name}")
