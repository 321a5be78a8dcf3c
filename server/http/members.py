"""Types of the members of answers, with their descriptions for the reference. The encoder ignores the annotations."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from server.events.feed import TYPES
from server.http.problems import KINDS
from server.ledger.limits import BALANCE_MAX, BALANCE_MIN
from server.ledger.transfer_lists import KINDS as TRANSFER_KINDS

_AS_STRING: Final = "With `Accept: application/json; amounts=string` it is a string."

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"}, examples=["019b76da-a800-7000-8000-000000000001"])]
Instant = Annotated[
    str,
    Meta(
        description="Instant in UTC, as RFC 3339 with microseconds.",
        examples=["2026-01-31T12:00:00.000000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
AccountName = Annotated[str, Meta(description="Id of an account.", examples=["customer:42"])]
CurrencyName = Annotated[
    str, Meta(description="ISO 4217 code, or another code of 3 to 8 upper-case letters or digits.", examples=["EUR"])
]
Minor = Annotated[
    int,
    Meta(
        ge=BALANCE_MIN,
        le=BALANCE_MAX,
        description=f"Amount in minor units of the currency. {_AS_STRING}",
        examples=[1250],
    ),
]
Sum = Annotated[
    int,
    Meta(description=f"Sum in minor units of the currency, which may exceed 64 bits. {_AS_STRING}", examples=[1250]),
]
Count = Annotated[int, Meta(ge=0, le=BALANCE_MAX)]
Version = Annotated[
    int,
    Meta(
        ge=0,
        le=BALANCE_MAX,
        description="Version of the account. Each transfer and each change that touches the account adds one.",
        examples=[3],
    ),
]
Position = Annotated[int, Meta(ge=0, le=BALANCE_MAX, description="Position in the feed of the ledger.", examples=[17])]
Metadata = Annotated[
    msgspec.Raw,
    Meta(
        description="Entries chosen by the caller.",
        examples=[{"channel": "web"}],
        extra_json_schema={"type": "object", "additionalProperties": {"type": "string"}},
    ),
]
TransferKind = Annotated[str, Meta(extra_json_schema={"enum": [*TRANSFER_KINDS]}, examples=["transfer"])]
TransferState = Annotated[
    str,
    Meta(
        description="A refused transfer stays refused. When it is read, `problem` says why.",
        examples=["posted"],
        extra_json_schema={"enum": ["posted", "refused"]},
    ),
]
HoldState = Annotated[
    str, Meta(extra_json_schema={"enum": ["open", "captured", "voided", "expired"]}, examples=["open"])
]
EventName = Annotated[str, Meta(extra_json_schema={"enum": [*TYPES]}, examples=["transfer.posted"])]
Order = Annotated[str, Meta(extra_json_schema={"enum": ["created", "effective"]})]
Status = Annotated[int, Meta(description="HTTP status of the item.", ge=100, le=599, examples=[201])]
NextCursor = Annotated[str, Meta(description="Value of the parameter `cursor` for the next page.")]


class ErrorBody(msgspec.Struct, gc=False):
    """One error in a request."""

    pointer: Annotated[str, Meta(description="JSON pointer into the body, or the name of a parameter or header field.")]
    detail: str


class ProblemBody(msgspec.Struct, kw_only=True, gc=False):
    """
    The reason why a request failed (RFC 9457).

    In the answer to a write, `outcome` says what was done, and `retry` with which key to send it again.
    """

    type: Annotated[
        str,
        Meta(
            description="URI of the page that explains the problem.",
            extra_json_schema={"format": "uri-reference"},
            examples=["/problems/insufficient_funds"],
        ),
    ]
    title: Annotated[str, Meta(examples=[KINDS["insufficient_funds"].title])]
    status: Annotated[int, Meta(ge=400, le=599, examples=[409])]
    detail: Annotated[str, Meta(examples=["The source has too little available for 1250 EUR."])]
    code: Annotated[
        str,
        Meta(
            description="Code that programs should test. `/problems/<code>` explains it.",
            extra_json_schema={"enum": [*KINDS]},
            examples=["insufficient_funds"],
        ),
    ]
    request_id: Annotated[
        str,
        Meta(
            description="Id of the request. A replayed refusal has the id of the request that was refused first.",
            examples=["5f3a1c-2a"],
        ),
    ]
    outcome: (
        Annotated[
            Literal["not_applied", "refused", "unknown"],
            Meta(description="What a write did.", examples=["refused"]),
        ]
        | UnsetType
    ) = UNSET
    retry: (
        Annotated[
            Literal["same_key", "new_key", "never"],
            Meta(description="Whether to retry a write, and with which key.", examples=["new_key"]),
        ]
        | UnsetType
    ) = UNSET
    errors: Annotated[list[ErrorBody], Meta(description="Errors in the request, with status 400.")] | UnsetType = UNSET
    pointer: Annotated[str, Meta(description="JSON pointer to the member that the refusal is about.")] | UnsetType = (
        UNSET
    )
    fields: (
        Annotated[list[str], Meta(description="Fields that differ from the existing account or transfer.")] | UnsetType
    ) = UNSET
    transfer_id: (
        Annotated[
            str,
            Meta(
                description="Id of the transfer to which the key is bound, with `idempotency_key_reused`.",
                extra_json_schema={"format": "uuid"},
            ),
        ]
        | UnsetType
    ) = UNSET
    violated_policies: Annotated[list[str], Meta(description="Names of the limits that are used up.")] | UnsetType = (
        msgspec.field(name="violated-policies", default=UNSET)
    )
    retry_after_ms: Annotated[int, Meta(ge=0, description="Milliseconds to wait before a retry.")] | UnsetType = UNSET
    failures: (
        Annotated[list[str], Meta(description="Reasons why the server is not ready, with `not_ready`.")] | UnsetType
    ) = UNSET
