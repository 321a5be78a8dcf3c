"""Bodies of requests, as types that decode and check them."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from server.ledger.limits import (
    ACCOUNT_ID_PATTERN,
    BALANCE_MAX,
    BALANCE_MIN,
    BULK_ITEMS_MAX,
    CURRENCY_PATTERN,
    DESCRIPTION_LENGTH_MAX,
    IDEMPOTENCY_KEY_LENGTH_MAX,
    METADATA_KEY_LENGTH_MAX,
    METADATA_KEYS_MAX,
    METADATA_VALUE_LENGTH_MAX,
    REFERENCE_LENGTH_MAX,
)

# Seconds that a hold may stay open: 30 days at most, and a week by default.
HOLD_SECONDS_MAX = 2_592_000
HOLD_SECONDS_DEFAULT = 604_800

# The patterns end with \Z, because `$` would also match before a line feed at the end, which a JSON string can hold as
# an escape.
AccountId = Annotated[
    str,
    Meta(
        pattern=ACCOUNT_ID_PATTERN.replace("$", r"\Z"),
        description="Id of the account, chosen by the caller.",
        examples=["customer:42"],
    ),
]
Currency = Annotated[
    str,
    Meta(
        pattern=CURRENCY_PATTERN.replace("$", r"\Z"),
        description="ISO 4217 code, or another code of 3 to 8 upper-case letters or digits.",
        examples=["EUR"],
    ),
]
IdempotencyKey = Annotated[
    str,
    Meta(
        pattern=rf"^[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}\Z",
        description="Idempotency key: 1 to 255 visible ASCII characters.",
        examples=["order-1002"],
    ),
]
TransferId = Annotated[
    str,
    Meta(
        description="Id of the transfer.",
        examples=["019b76da-a800-7000-8000-000000000001"],
        extra_json_schema={"format": "uuid"},
    ),
]
BoundKey = Annotated[
    str,
    Meta(
        description="The idempotency key. Slashes need not be escaped.",
        examples=["order-1001"],
        extra_json_schema={"pattern": r"^[\x21-\x7e]{1,255}$"},
    ),
]
Amount = Annotated[int, Meta(ge=1, le=BALANCE_MAX, description="Amount in minor units of the currency.")]
Balance = Annotated[int, Meta(ge=BALANCE_MIN, le=BALANCE_MAX, description="Balance in minor units of the currency.")]
Floor = Annotated[
    Balance,
    Meta(description="Lowest `available` that an outgoing transfer may leave; null means no limit.", examples=[0]),
]
Ceiling = Annotated[
    Balance, Meta(description="Highest `balance` + `held_in` that an incoming transfer may reach; null means no limit.")
]
Version = Annotated[int, Meta(ge=0, le=BALANCE_MAX, description="Version that the account must have.")]
ExpiresIn = Annotated[
    int,
    Meta(
        ge=1,
        le=HOLD_SECONDS_MAX,
        description=f"Seconds until a hold expires, for holds only. Default: {HOLD_SECONDS_DEFAULT}.",
    ),
]
EffectiveAt = Annotated[
    str,
    Meta(
        description="Instant that the transfer counts for, not in the future. Default: the instant of posting.",
        extra_json_schema={"format": "date-time"},
    ),
]
ReleaseRest = Annotated[bool, Meta(description="Whether a capture releases the rest of the hold.")]
Reference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=REFERENCE_LENGTH_MAX,
        description="Reference of the caller, by which transfers can be listed.",
    ),
]
Description = Annotated[str, Meta(max_length=DESCRIPTION_LENGTH_MAX)]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=METADATA_KEY_LENGTH_MAX)]
MetadataValue = Annotated[str, Meta(max_length=METADATA_VALUE_LENGTH_MAX)]
# Items of bulks: each is decoded separately, later, as one of these types.
_SCHEMA = "#/components/schemas/{}"
AccountItem = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": _SCHEMA.format("AccountCreate")})]
AnyItem = Annotated[
    msgspec.Raw,
    Meta(extra_json_schema={"anyOf": [{"$ref": _SCHEMA.format(name)} for name in ("TransferItem", "ChildItem")]}),
]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=METADATA_KEYS_MAX)]
MetadataPatch = Annotated[dict[MetadataKey, MetadataValue | None], Meta(max_length=METADATA_KEYS_MAX)]


is_account_id = re.compile(ACCOUNT_ID_PATTERN.replace("$", r"\Z")).match
is_currency = re.compile(CURRENCY_PATTERN.replace("$", r"\Z")).match


class Strict(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A body that refuses unknown fields."""


class AccountCreate(Strict, kw_only=True):
    """An account to open."""

    id: AccountId
    currency: Currency
    floor: Floor | None = 0
    ceiling: Ceiling | None = None
    metadata: Metadata = msgspec.field(default_factory=dict)


class AccountBulk(Strict, kw_only=True):
    """Accounts to open, each independently of the others."""

    accounts: Annotated[list[AccountItem], Meta(min_length=1, max_length=BULK_ITEMS_MAX)]


class AccountPatch(Strict, kw_only=True):
    """A change of an account. Metadata is merged; null removes an entry, and null for all metadata clears it."""

    floor: Floor | UnsetType | None = UNSET
    ceiling: Ceiling | UnsetType | None = UNSET
    closed: (
        Annotated[bool, Meta(description="Whether the account is closed. No money moves to or from a closed account.")]
        | UnsetType
    ) = UNSET
    metadata: MetadataPatch | UnsetType | None = UNSET


class Conditions(Strict, kw_only=True):
    """Conditions that must hold at the moment of posting."""

    source_version: Version | None = None
    destination_version: Version | None = None
    source_available_gte: (
        Annotated[Balance, Meta(description="Lowest `available` that the source must have.")] | None
    ) = None


class TransferCreate(Strict, kw_only=True):
    """A transfer to post."""

    source: AccountId
    destination: AccountId
    amount: Amount
    currency: Currency
    hold: Annotated[bool, Meta(description="Whether to reserve the amount instead of moving it.")] = False
    expires_in: ExpiresIn | None = None
    effective_at: EffectiveAt | None = None
    reference: Reference | None = None
    description: Description | None = None
    conditions: Conditions | None = None
    metadata: Metadata = msgspec.field(default_factory=dict)


class Capture(Strict, kw_only=True):
    """The amount to capture of a hold: a part, or (null) all that remains."""

    amount: Amount | None = None
    release_rest: ReleaseRest = True


class Void(Strict, kw_only=True):
    """The release of a hold, which has no parameters."""


class Reversal(Strict, kw_only=True):
    """The amount to move back of a transfer: a part, or (null) all that has not been moved back."""

    amount: Amount | None = None


class TransferItem(TransferCreate, kw_only=True):
    """A transfer to post, with the idempotency key that a single transfer has in its header."""

    key: IdempotencyKey


class TransferItemUnmatched(TransferItem, kw_only=True):
    """
    An item whose texts have not been matched with their patterns, which is most of the work of decoding an item.

    The texts of a bulk repeat, so the reader of many items matches each distinct text once.
    """

    source: str
    destination: str
    currency: str
    key: str


class TransferItemAnyKey(TransferCreate, kw_only=True):
    """An item whose key is not checked: it shows whether only the key is wrong."""

    key: Any = UNSET


class ChildItem(Strict, kw_only=True):
    """A capture, void or reversal of a parent, which is given by its id or by its idempotency key."""

    key: IdempotencyKey
    kind: Literal["capture", "void", "reversal"]
    parent: Annotated[TransferId, Meta(description="Id of the parent transfer.")] | UnsetType = UNSET
    parent_key: Annotated[str, Meta(description="Idempotency key of the parent, instead of `parent`.")] | UnsetType = (
        UNSET
    )
    amount: (
        Annotated[Amount | None, Meta(description="Null means all that is left. A void does not take this member.")]
        | UnsetType
    ) = UNSET
    release_rest: (
        Annotated[bool, Meta(description="Whether a capture releases the rest of the hold; only a capture takes it.")]
        | UnsetType
    ) = UNSET


class ChildItemAnyKey(ChildItem, kw_only=True):
    """A capture, void or reversal whose key is not checked."""

    key: Any = UNSET


class ItemKind(msgspec.Struct):
    """The `kind` of an item, if it has one."""

    kind: Any = UNSET


class TransferBulk(Strict, kw_only=True):
    """Transfers to post: each independently, or (atomic) all or none."""

    transfers: Annotated[list[AnyItem], Meta(min_length=1, max_length=BULK_ITEMS_MAX)]
    atomic: Annotated[bool, Meta(description="Whether to post all transfers or none.")] = False


class Preview(msgspec.Struct, kw_only=True):
    """The body of a transfer or of a bulk, decoded only as far as needed to tell which it is."""

    transfers: list[msgspec.Raw] | None = None


# Decoders for the items of bulks; the bodies of routes are decoded as the types in `ROUTES`.
account_create = msgspec.json.Decoder(AccountCreate)
transfer_item = msgspec.json.Decoder(TransferItem)
transfer_item_unmatched = msgspec.json.Decoder(TransferItemUnmatched)
transfer_item_any_key = msgspec.json.Decoder(TransferItemAnyKey)
child_item = msgspec.json.Decoder(ChildItem)
child_item_any_key = msgspec.json.Decoder(ChildItemAnyKey)
item_kind = msgspec.json.Decoder(ItemKind)

# Sorts keys and writes no spaces, so that equal objects have equal texts.
_canonical = msgspec.json.Encoder(order="deterministic")


def canonical(value: object) -> str:
    """Return *value* as canonical JSON text."""
    return _canonical.encode(value).decode() if value else "{}"
