"""The routes: `uvicorn loadtests.peer.app:app --loop uvloop --http httptools`."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from loadtests.peer.book import post
from loadtests.peer.gate import caller, resources
from loadtests.peer.resources import KeyInfo, Resources, open_resources
from loadtests.peer.schemas import AccountIn, AccountOut, AccountsIn, TransferIn, TransferOut
from loadtests.peer.tables import Account

# Seconds that an account is served out of Redis unless a transfer removes it: so long that few reads miss.
SNAPSHOT_SECONDS = 60
JSON = "application/json"

Caller = Annotated[KeyInfo, Depends(caller)]
Parts = Annotated[Resources, Depends(resources)]


@asynccontextmanager
async def lifespan(running: FastAPI) -> AsyncIterator[None]:
    """Hold the connections while it runs."""
    async with open_resources() as parts:
        running.state.resources = parts
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    """Answer when it has started."""
    return {"ready": True}


@app.post("/v1/accounts", status_code=201)
async def open_account(asked: AccountIn, who: Caller, parts: Parts, response: Response) -> AccountOut:
    """Open an account, unless it is there."""
    made, account = await _open(parts, who.ledger, asked)
    if not made:
        response.status_code = 200
        response.headers["Idempotent-Replayed"] = "true"
    return account


@app.post("/v1/accounts/bulk")
async def open_accounts(asked: AccountsIn, who: Caller, parts: Parts) -> dict[str, list[dict[str, object]]]:
    """Open accounts, one after the other."""
    done = [await _open(parts, who.ledger, account) for account in asked.accounts]
    return {"results": [{"status": 201 if made else 200, "account": account} for made, account in done]}


async def _open(parts: Resources, ledger: str, asked: AccountIn) -> tuple[bool, AccountOut]:
    async with parts.sessions() as session, session.begin():
        values = {"ledger": ledger, **asked.model_dump()}
        statement = insert(Account).values(**values).on_conflict_do_nothing().returning(Account)
        row = await session.scalar(statement)
        if row is not None:
            return True, AccountOut.model_validate(row)
        found = await session.get_one(Account, (ledger, asked.id))
        if (found.currency, found.floor) != (asked.currency, asked.floor):
            raise HTTPException(409, "this account exists, and is another one")
        return False, AccountOut.model_validate(found)


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
    transfer, replayed = await post(parts, who.ledger, idempotency_key, fingerprint, asked)
    if not replayed:
        await parts.redis.delete(
            _snapshot_name(who.ledger, asked.source), _snapshot_name(who.ledger, asked.destination)
        )
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    return Response(TransferOut.model_validate(transfer).model_dump_json(), 201, headers, JSON)
