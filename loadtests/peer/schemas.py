"""What goes in and out."""

import datetime
import uuid
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z0-9]{3,8}$")]
Amount = Annotated[int, Field(strict=True, gt=0, lt=2**63)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class AccountIn(_In):
    """An account to open."""

    id: Name
    currency: Currency
    floor: int | None = 0


class AccountsIn(_In):
    """Accounts to open at once."""

    accounts: Annotated[list[AccountIn], Field(min_length=1, max_length=1_000)]


class AccountOut(_Out):
    """An account."""

    id: str
    currency: str
    balance: int
    floor: int | None
    version: int
    created_at: datetime.datetime


class TransferIn(_In):
    """A transfer to make."""

    source: Name
    destination: Name
    amount: Amount
    currency: Currency
    reference: str | None = None
    description: str | None = None


class TransferOut(_Out):
    """A transfer that was made."""

    id: uuid.UUID
    source: str
    destination: str
    amount: int
    currency: str
    source_balance: int
    destination_balance: int
    source_version: int
    destination_version: int
    reference: str | None
    description: str | None
    created_at: datetime.datetime
