"""The places where JSON is accepted: every request with an object, and every number and text in it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.client import Answer, Client

HOLE = "\x01"


class Place(NamedTuple):
    """
    A request that takes a JSON object.

    `members` are those of a valid object, as JSON text. A bulk wraps the object; `pointer` is its position there.
    """

    name: str
    method: str
    path: str
    members: dict[str, str]
    required: tuple[str, ...]
    wrap: str = HOLE
    pointer: str = ""

    def body(self, *, without: str = "", extra: str = "") -> str:
        """Return the valid body, less the member *without*, plus the text *extra* as its last member."""
        members = [f'"{name}":{text}' for name, text in self.members.items() if name != without]
        return self.wrap.replace(HOLE, "{" + ",".join([*members, *([extra] if extra else [])]) + "}")

    async def send(self, client: Client, body: bytes, key: str) -> Answer:
        """Send *body* to this place, with an idempotency key if the route takes one."""
        headers = {"Idempotency-Key": key} if self.path == "/v1/transfers" else {}
        return await client.send(self.method, self.path, raw=body, headers=headers)


class Spot(NamedTuple):
    """A value within a place: its member, with a hole for the value, and its pointer."""

    place: Place
    member: str
    pointer: str

    @property
    def id(self) -> str:
        """The name that tests use."""
        return f"{self.place.name}{self.pointer.replace('/', ' ')}"

    def body(self, value: bytes) -> bytes:
        """Return the valid body with *value*, a JSON text, in this spot."""
        name = self.member.split('"')[1]
        return self.place.body(without=name, extra=self.member).encode().replace(HOLE.encode(), value)


_TRANSFER = {"source": '"world"', "destination": '"alice"', "amount": "1", "currency": '"EUR"'}
_ACCOUNT = {"id": '"fresh"', "currency": '"EUR"'}
_TRANSFER_REQUIRED = tuple(_TRANSFER)
_ITEM = {"key": '"item-key"', **_TRANSFER}

TRANSFER = Place("a transfer", "POST", "/v1/transfers", _TRANSFER, _TRANSFER_REQUIRED)
TRANSFER_ITEM = Place(
    "an item of a bulk",
    "POST",
    "/v1/transfers/bulk",
    _ITEM,
    tuple(_ITEM),
    f'{{"transfers":[{HOLE}]}}',
    "/transfers/0",
)
ATOMIC_ITEM = TRANSFER_ITEM._replace(name="an item of an atomic set", wrap=f'{{"transfers":[{HOLE}],"atomic":true}}')
ACCOUNT = Place("an account", "POST", "/v1/accounts", _ACCOUNT, tuple(_ACCOUNT))
ACCOUNT_ITEM = Place(
    "an item of a bulk of accounts",
    "POST",
    "/v1/accounts/bulk",
    _ACCOUNT,
    tuple(_ACCOUNT),
    f'{{"accounts":[{HOLE}]}}',
    "/accounts/0",
)
PATCH = Place("a patch", "PATCH", "/v1/accounts/alice", {}, ())
BULK = Place("a bulk", "POST", "/v1/transfers/bulk", {"transfers": f"[{TRANSFER_ITEM.body()[14:-2]}]"}, ("transfers",))
ACCOUNT_BULK = Place(
    "a bulk of accounts", "POST", "/v1/accounts/bulk", {"accounts": f"[{ACCOUNT.body()}]"}, ("accounts",)
)
OBJECTS = (TRANSFER, TRANSFER_ITEM, ATOMIC_ITEM, ACCOUNT, ACCOUNT_ITEM, PATCH)
BODIES = (TRANSFER, BULK, ACCOUNT, ACCOUNT_BULK, PATCH)

_TRANSFERS = (TRANSFER, TRANSFER_ITEM, ATOMIC_ITEM)
_ACCOUNTS = (ACCOUNT, ACCOUNT_ITEM, PATCH)


def _spots(places: tuple[Place, ...], *members: str) -> Iterator[Spot]:
    """Make spots for `name` or `outer/inner` in each place."""
    for place in places:
        for member in members:
            outer, _, inner = member.partition("/")
            text = f'"{outer}":{{"{inner}":{HOLE}}}' if inner else f'"{outer}":{HOLE}'
            yield Spot(place, text, f"{place.pointer}/{outer}" + (f"/{inner}" if inner else ""))


NUMBERS = (
    *_spots(
        _TRANSFERS,
        "amount",
        "expires_in",
        "conditions/source_version",
        "conditions/destination_version",
        "conditions/source_available_gte",
    ),
    *_spots(_ACCOUNTS, "floor", "ceiling"),
)
IDS = (
    *_spots(_TRANSFERS, "source", "destination"),
    *_spots((ACCOUNT, ACCOUNT_ITEM), "id"),
)
CURRENCIES = tuple(_spots((*_TRANSFERS, ACCOUNT, ACCOUNT_ITEM), "currency"))
KEYS = tuple(_spots((TRANSFER_ITEM, ATOMIC_ITEM), "key"))
FREE_TEXTS = tuple(_spots(_TRANSFERS, "reference", "description"))
METADATA = tuple(_spots(OBJECTS, "metadata/note"))
TEXTS = (*IDS, *CURRENCIES, *KEYS, *FREE_TEXTS, *METADATA)


def refusal(answer: Answer) -> Any:
    """Return the problem of the request, or of its only item."""
    document = answer.json
    if answer.status == 200:
        (item,) = document["results"]
        assert not item["replayed"]
        assert item["status"] == item["problem"]["status"]
        return item["problem"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert document["status"] == answer.status
    return document
