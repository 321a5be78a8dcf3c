"""A transfer: one transaction, both accounts locked, its key unique."""

import datetime
import uuid

from fastapi import HTTPException
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from loadtests.peer.resources import Resources
from loadtests.peer.schemas import TransferIn
from loadtests.peer.tables import Account, Transfer


async def post(parts: Resources, ledger: str, key: str, fingerprint: bytes, asked: TransferIn) -> tuple[Transfer, bool]:
    """
    Make a transfer, or find the one that was made under its key.

    Returns:
        The transfer, and whether it was made before.

    Raises:
        HTTPException: It cannot be made, or the key belongs to another request.
    """
    try:
        found = await _post(parts, ledger, key, fingerprint, asked)
    except IntegrityError:
        # Somebody else has just used the key.
        async with parts.sessions() as session:
            other = await session.scalar(_by_key(ledger, key))
        if other is None:
            raise
        found = other, True
    if found[0].fingerprint != fingerprint:
        raise HTTPException(422, "this key was used for another request")
    return found


def _by_key(ledger: str, key: str) -> "select[tuple[Transfer]]":
    return select(Transfer).where(Transfer.ledger == ledger, Transfer.idempotency_key == key)


async def _post(
    parts: Resources, ledger: str, key: str, fingerprint: bytes, asked: TransferIn
) -> tuple[Transfer, bool]:
    async with parts.sessions() as session, session.begin():
        known = await session.scalar(_by_key(ledger, key))
        if known is not None:
            return known, True
        # Locked in the order of their ids: two transfers between the same accounts never wait for one another in turn.
        rows = await session.scalars(
            select(Account)
            .where(Account.ledger == ledger, Account.id.in_((asked.source, asked.destination)))
            .order_by(Account.id)
            .with_for_update()
        )
        accounts = {account.id: account for account in rows}
        source, destination = accounts.get(asked.source), accounts.get(asked.destination)
        if source is None or destination is None or source is destination:
            raise HTTPException(404, "an account does not exist")
        if source.currency != asked.currency or destination.currency != asked.currency:
            raise HTTPException(409, "the currencies differ")
        if source.floor is not None and source.balance - asked.amount < source.floor:
            raise HTTPException(409, "there is not enough money")
        source.balance -= asked.amount
        source.version += 1
        destination.balance += asked.amount
        destination.version += 1
        transfer = Transfer(
            id=uuid.uuid4(),
            ledger=ledger,
            idempotency_key=key,
            fingerprint=fingerprint,
            source_balance=source.balance,
            destination_balance=destination.balance,
            source_version=source.version,
            destination_version=destination.version,
            created_at=datetime.datetime.now(datetime.UTC),
            **asked.model_dump(),
        )
        session.add(transfer)
    return transfer, False
