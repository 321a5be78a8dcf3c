"""Whose request it is, and what a request that is nobody's may cost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from server.gate.keys import ApiKey, StrangersFullError
from server.http.admission import AnonymousAdmission
from server.http.admit import used_up
from server.http.call import Call
from server.http.parts import Parts
from server.http.problems import Problem
from server.http.routes import Route
from server.store.coalescer import QueueFullError

# The limits of a network address, as callers read them.
AUTHENTICATION = "authentication"
ANONYMOUS = "anonymous"


def fails(call: Call, route: Route | None) -> bool:
    """Return whether a request without a good key has failed to authenticate: a page asks for none."""
    return bool(call.head.token) if route is None else route.role is not None


class Callers:
    """
    Tells requests with a good key from those without, and bounds the latter.

    A network address has one limit for failed authentications and one for all else that comes without a good key: an
    office that reads the pages of problems does not wait for a broken client behind the same address.

    Args:
        parts: Keys, limits and trusted proxies.

    Attributes:
        admission: The places of requests without a good key.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.admission = AnonymousAdmission()
        self._limits = {AUTHENTICATION: parts.failures, ANONYMOUS: parts.anonymous}

    async def key_of(self, call: Call, route: Route | None) -> ApiKey | None:
        """
        Return the key that a request came with, None where that is none; it needs no place meanwhile.

        For a page a key is not looked up: whether it is good makes no difference there.

        Raises:
            Problem: The key is not known, and its address has failed too often for it to be looked up.
            StrangersFullError: It is one of too many keys that are not known.
            QueueFullError, StoreUnavailableError: It could not be looked up.
        """
        token = call.head.token
        if not token:
            return None
        authenticator = self._parts.authenticator
        key = authenticator.remembered(call.head.token_name)
        if key is not None or (route is not None and route.role is None):
            return key
        failures = self._parts.failures
        address = self._address(call)

        async def refuse_used_up() -> None:
            if wait := await failures.used_up(address):
                raise used_up(AUTHENTICATION, wait)

        try:
            return await authenticator.authenticate(token, refuse_used_up)
        except StrangersFullError:
            async with self._place():
                await failures.count(address)
            raise

    @asynccontextmanager
    async def anonymous(self, call: Call) -> AsyncIterator[None]:
        """
        Give a request that shows no key a place, once it is within the limit of its address.

        Raises:
            Problem: The limit is used up.
            QueueFullError: There was no place in time.
        """
        async with self._counted(call, ANONYMOUS):
            yield

    async def refuse(self, call: Call) -> NoReturn:
        """
        Refuse a request that needs a good key, or shows a bad one.

        Raises:
            Problem: It failed to authenticate, or its address has done so too often.
            QueueFullError: There was no place in time.
        """
        async with self._counted(call, AUTHENTICATION):
            raise Problem("unauthorized", headers=[("WWW-Authenticate", "Bearer")])

    def refused(self, call: Call, route: Route | None) -> tuple[str, int] | None:
        """
        Return what refuses a request without a key that is known, as far as that is known without asking.

        Returns:
            The limit of its address that is used up, and microseconds until it has room; None: nothing is known.
        """
        if self._parts.authenticator.knew(call.head.token_name):
            return None
        policy = AUTHENTICATION if fails(call, route) else ANONYMOUS
        wait = self._limits[policy].remembered(self._address(call))
        return (policy, wait) if wait else None

    @asynccontextmanager
    async def _counted(self, call: Call, policy: str) -> AsyncIterator[None]:
        limit, address = self._limits[policy], self._address(call)
        # A flood from one address does not even wait for a place.
        if wait := limit.remembered(address):
            raise used_up(policy, wait)
        async with self._place():
            if wait := await limit.count(address):
                raise used_up(policy, wait)
            yield

    def _address(self, call: Call) -> str:
        return self._parts.proxies.caller(call.remote, call.headers)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if not await self.admission.entered(write=False):
            raise QueueFullError
        try:
            yield
        finally:
            self.admission.leave(write=False)
