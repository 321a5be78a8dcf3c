"""The routes: `uvicorn loadtests.peer.app:app --loop uvloop --http httptools`."""

import datetime
import hashlib
import uuid
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request, Response
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from loadtests.peer.resources import Caller, Parts, Resources, lifespan
from loadtests.peer.tables import Account, AccountIn, AccountOut, AccountsIn, Transfer, TransferIn, TransferOut

# Seconds that an account is served out of Redis unless a transfer removes it: so long that few reads miss.
SNAPSHOT_SECONDS = 60
JSON = "application/json"

app = FastAPI(lifespan=lifespan)


@app.post("/v1/accounts/bulk")
async def open_accounts(asked: AccountsIn, who: Caller, parts: Parts) -> dict[str, list[dict[str, object]]]:
    """Open accounts, one after the other; those that are there stay as they are."""
    return {"results": [await _open(parts, who.ledger, account) for account in asked.accounts]}


async def _open(parts: Resources, ledger: str, asked: AccountIn) -> dict[str, object]:
    async with parts.sessions() as session, session.begin():
        values = {"ledger": ledger, **asked.model_dump()}
        row = await session.scalar(insert(Account).values(**values).on_conflict_do_nothing().returning(Account))
        found = row or await session.get_one(Account, (ledger, asked.id))
        if (found.currency, found.floor) != (asked.currency, asked.floor):
            raise HTTPException(409, "this account exists, and is another one")
        return {"status": 200 if row is None else 201, "account": AccountOut.model_validate(found)}


def _snapshot_name(ledger: str, account: str) -> str:
    return f"account:{ledger}:{account}"


@app.get("/v1/accounts/{account}", response_model=AccountOut)
async def read_account(account: str, who: Caller, parts: Parts) -> Response:
    """Return an account, out of Redis when it is there."""
    name = _snapshot_name(who.ledger, account)
    cached = await parts.redis.get(name)
    if cached is not None:
        return Response(cached, media_type=JSON)
    async with parts.sessions() as session:
        found = await session.scalar(select(Account).where(Account.ledger == who.ledger, Account.id == account))
    if found is None:
        raise HTTPException(404, "this account does not exist")
    body = AccountOut.model_validate(found).model_dump_json()
    await parts.redis.set(name, body, ex=SNAPSHOT_SECONDS)
    return Response(body, media_type=JSON)


@app.post("/v1/transfers", status_code=201, response_model=TransferOut)
async def post_transfer(
    request: Request,
    asked: TransferIn,
    who: Caller,
    parts: Parts,
    idempotency_key: Annotated[str, Header(min_length=1, max_length=255)],
) -> Response:
    """Make a transfer once, whatever is sent how often."""
    fingerprint = hashlib.sha256(b"POST /v1/transfers\n" + await request.body()).digest()
    made = Transfer(id=uuid.uuid4(), ledger=who.ledger, idempotency_key=idempotency_key, fingerprint=fingerprint)
    try:
        transfer = await _post(parts, made, asked)
    except IntegrityError:
        # Somebody else has just used the key.
        async with parts.sessions() as session:
            other = await session.scalar(_of_same_key(made))
        if other is None:
            raise
        transfer = other
    if transfer.fingerprint != fingerprint:
        raise HTTPException(422, "this key was used for another request")
    headers = {"Idempotent-Replayed": "true"}
    if transfer is made:
        headers = {}
        await parts.redis.delete(*(_snapshot_name(who.ledger, name) for name in (asked.source, asked.destination)))
    return Response(TransferOut.model_validate(transfer).model_dump_json(), 201, headers, JSON)


def _of_same_key(transfer: Transfer) -> "select[tuple[Transfer]]":
    mine = Transfer.ledger == transfer.ledger, Transfer.idempotency_key == transfer.idempotency_key
    return select(Transfer).where(*mine)


async def _post(parts: Resources, made: Transfer, asked: TransferIn) -> Transfer:
    """Make a transfer in one transaction, both accounts locked, unless there is one with its key; return it."""
    async with parts.sessions() as session, session.begin():
        known = await session.scalar(_of_same_key(made))
        if known is not None:
            return known
        # Locked in the order of their ids: two transfers between the same accounts never wait for one another in turn.
        rows = await session.scalars(
            select(Account)
            .where(Account.ledger == made.ledger, Account.id.in_((asked.source, asked.destination)))
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
        for side, account, amount in (("source", source, -asked.amount), ("destination", destination, asked.amount)):
            account.balance += amount
            account.version += 1
            setattr(made, f"{side}_balance", account.balance)
            setattr(made, f"{side}_version", account.version)
        for name, value in asked.model_dump().items():
            setattr(made, name, value)
        made.created_at = datetime.datetime.now(datetime.UTC)
        session.add(made)
    return made
