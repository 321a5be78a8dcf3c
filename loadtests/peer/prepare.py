"""`python -m loadtests.peer.prepare --ledger NAME --limit 1000000/second`: the peer's tables and a key, printed."""

import argparse
import asyncio
import hashlib
import os
import secrets
import sys

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from loadtests.peer.resources import DATABASE_VARIABLE
from loadtests.peer.tables import ApiKey, Base


def main() -> int:
    """Make what is not there, print the key."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.peer.prepare", description=__doc__)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--limit", required=True, help="in the words of `limits`: 10/second")
    arguments = parser.parse_args()
    print(asyncio.run(_prepare(arguments.ledger, arguments.limit)))
    return 0


async def _prepare(ledger: str, limit: str) -> str:
    secret = secrets.token_urlsafe(32)
    engine = create_async_engine(os.environ[DATABASE_VARIABLE])
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session, session.begin():
            session.add(ApiKey(digest=hashlib.sha256(secret.encode()).digest(), ledger=ledger, limit=limit))
    finally:
        await engine.dispose()
    return secret


if __name__ == "__main__":
    sys.exit(main())
