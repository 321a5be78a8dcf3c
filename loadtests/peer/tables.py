"""The peer's tables."""

import datetime
import uuid

from sqlalchemy import BigInteger, DateTime, Index, LargeBinary, Text, UniqueConstraint, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Of all tables."""


class ApiKey(Base):
    """Who may ask: the digest of a secret, the ledger it opens and how much it may ask for."""

    __tablename__ = "api_keys"

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    ledger: Mapped[str] = mapped_column(Text)
    limit: Mapped[str] = mapped_column(Text)


class Account(Base):
    """A balance; room on its page keeps updates of it off the index."""

    __tablename__ = "accounts"
    __table_args__ = ({"postgresql_with": {"fillfactor": 50}},)

    ledger: Mapped[str] = mapped_column(Text, primary_key=True)
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    currency: Mapped[str] = mapped_column(Text)
    balance: Mapped[int] = mapped_column(BigInteger, default=0)
    floor: Mapped[int | None] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    created_at: Mapped[datetime.datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Transfer(Base):
    """Money that moved, and the key that it moved under."""

    __tablename__ = "transfers"
    __table_args__ = (
        UniqueConstraint("ledger", "idempotency_key", name="transfers_idempotency_key_unique"),
        Index("transfers_source_index", "ledger", "source", "created_at"),
        Index("transfers_destination_index", "ledger", "destination", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    ledger: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    source: Mapped[str] = mapped_column(Text)
    destination: Mapped[str] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    source_balance: Mapped[int] = mapped_column(BigInteger)
    destination_balance: Mapped[int] = mapped_column(BigInteger)
    source_version: Mapped[int] = mapped_column(BigInteger)
    destination_version: Mapped[int] = mapped_column(BigInteger)
    reference: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime.datetime] = mapped_column(DateTime(timezone=True))
