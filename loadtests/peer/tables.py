"""The peer's tables, and what goes in and out of it."""

import datetime
import uuid
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, DateTime, Index, Text, UniqueConstraint, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z0-9]{3,8}$")]
Amount = Annotated[int, Field(strict=True, gt=0, lt=2**63)]


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 -- of SQLAlchemy
        str: Text,
        int: BigInteger,
        datetime.datetime: DateTime(timezone=True),
    }


class ApiKey(Base):
    """Who may ask: the digest of a secret, the ledger it opens and how much it may ask for."""

    __tablename__ = "api_keys"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    ledger: Mapped[str]
    limit: Mapped[str]


class Account(Base):
    """A balance; room on its page keeps updates of it off the index."""

    __tablename__ = "accounts"
    __table_args__ = ({"postgresql_with": {"fillfactor": 50}},)

    ledger: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str]
    balance: Mapped[int] = mapped_column(default=0)
    floor: Mapped[int | None]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=func.now())


class Transfer(Base):
    """Money that moved, and the key that it moved under."""

    __tablename__ = "transfers"
    __table_args__ = (
        UniqueConstraint("ledger", "idempotency_key", name="transfers_idempotency_key_unique"),
        Index("transfers_source_index", "ledger", "source", "created_at"),
        Index("transfers_destination_index", "ledger", "destination", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    ledger: Mapped[str]
    idempotency_key: Mapped[str]
    fingerprint: Mapped[bytes]
    source: Mapped[str]
    destination: Mapped[str]
    amount: Mapped[int]
    currency: Mapped[str]
    source_balance: Mapped[int]
    destination_balance: Mapped[int]
    source_version: Mapped[int]
    destination_version: Mapped[int]
    reference: Mapped[str | None]
    description: Mapped[str | None]
    created_at: Mapped[datetime.datetime]


class Message(BaseModel):
    """Of all that goes in and out: no other members, and made of rows too."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class AccountIn(Message):
    id: Name
    currency: Currency
    floor: int | None = 0


class AccountsIn(Message):
    accounts: Annotated[list[AccountIn], Field(min_length=1, max_length=1_000)]


class AccountOut(AccountIn):
    balance: int
    version: int
    created_at: datetime.datetime


class TransferIn(Message):
    source: Name
    destination: Name
    amount: Amount
    currency: Currency
    reference: str | None = None
    description: str | None = None


class TransferOut(TransferIn):
    id: uuid.UUID
    source_balance: int
    destination_balance: int
    source_version: int
    destination_version: int
    created_at: datetime.datetime
