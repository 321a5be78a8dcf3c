"""Who asks, and whether that is too much."""

import hashlib
import time
from typing import Annotated

from fastapi import Depends, Header, HTTPException, Request
from limits import parse
from sqlalchemy import select

from loadtests.peer.resources import KeyInfo, Resources
from loadtests.peer.tables import ApiKey

# Seconds that a key is believed without asking the database again: how long a revoked one works on.
KEY_SECONDS = 10.0
# Keys remembered at once: far more than a comparison has.
KEYS_MAX = 10_000


async def resources(request: Request) -> Resources:
    """Return the parts of the running peer; `async`, or FastAPI would ask a thread for it at every request."""
    found: Resources = request.app.state.resources
    return found


async def caller(
    parts: Annotated[Resources, Depends(resources)], authorization: Annotated[str | None, Header()] = None
) -> KeyInfo:
    """
    Return who asks.

    Raises:
        HTTPException: Nobody known, or somebody who has asked too often.
    """
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise HTTPException(401, "an API key is needed")
    digest = hashlib.sha256(secret.encode()).digest()
    now = time.monotonic()
    known = parts.keys.get(digest)
    if known is None or known.until < now:
        known = await _look_up(parts, digest, now)
    limit = parse(known.limit)
    if not await parts.limiter.hit(limit, known.ledger):
        stats = await parts.limiter.get_window_stats(limit, known.ledger)
        wait = max(1, round(stats.reset_time - time.time() + 0.5))
        raise HTTPException(429, "the limit of this key is used up", {"Retry-After": str(wait)})
    return known


async def _look_up(parts: Resources, digest: bytes, now: float) -> KeyInfo:
    async with parts.sessions() as session:
        row = await session.scalar(select(ApiKey).where(ApiKey.digest == digest))
    if row is None:
        raise HTTPException(401, "this API key is not known")
    if len(parts.keys) >= KEYS_MAX:
        parts.keys.clear()
    known = parts.keys[digest] = KeyInfo(row.ledger, row.limit, now + KEY_SECONDS)
    return known
