"""Finds the key of a request, and limits requests without a good key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NoReturn

from server.gate.addresses import AddressLimit
from server.gate.keys import ApiKey, Authenticator, UnknownKeysFullError
from server.http.admission import AnonymousAdmission
from server.http.call import Call
from server.http.problems import Problem
from server.http.rate_limits import QuotaExceededProblem
from server.http.wire.forwarded import TrustedProxies
from server.store.coalescer import QueueFullError

# The names of the limits of a network address, as callers read them.
AUTHENTICATION: Final = "authentication"
ANONYMOUS: Final = "anonymous"


def needs_key(call: Call) -> bool:
    """Return whether a request without a good key counts as a failed authentication: pages need no key."""
    return bool(call.token) if call.route is None else call.route.role is not None


class Callers:
    """
    Finds the key of each request, and limits requests without a good key.

    A network address has one limit for failed authentications and one for all other requests without a good key. So an
    office that reads the pages of problems does not wait because of a broken client behind the same address.

    Args:
        authenticator: Finds the key of a token.

        failures: The limit of failed authentications.

        anonymous: The limit of other requests without a good key.

        proxies: The proxies that are trusted to name the address of a caller.

    Attributes:
        admission: The places of requests without a good key.

        remembered: Takes the hash of a token and returns its key, or None if the key has to be looked up.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        failures: AddressLimit,
        anonymous: AddressLimit,
        proxies: TrustedProxies,
    ) -> None:
        self._authenticator = authenticator
        self.remembered = authenticator.remembered
        self._limits = {AUTHENTICATION: failures, ANONYMOUS: anonymous}
        self._proxies = proxies
        self.admission = AnonymousAdmission()

    def refuse_flood(self, call: Call) -> None:
        """
        Refuse a request whose token was never found good, if its address is known to have used up its limit.

        Raises:
            Problem: The limit is used up. Neither Redis nor Postgres was asked.
        """
        if not self._authenticator.knew(call.token_name):
            policy = AUTHENTICATION if needs_key(call) else ANONYMOUS
            _refuse(policy, self._limits[policy].remembered(self._address(call)))

    async def authenticate(self, call: Call) -> ApiKey | None:
        """
        Look up the key of a request, which needs no place while it waits.

        Returns:
            None if the request has no good key. The key of a request for an open page is not looked up.

        Raises:
            Problem: The token was never found good, and its address has failed too often for a look-up.
            UnknownKeysFullError: Too many such tokens wait to be looked up.
            QueueFullError, StoreUnavailableError: The key could not be looked up.
        """
        if not call.token or (call.route is not None and call.route.role is None):
            return None
        failures, address = self._limits[AUTHENTICATION], self._address(call)

        async def refuse_exhausted() -> None:
            _refuse(AUTHENTICATION, await failures.peek(address))

        try:
            return await self._authenticator.authenticate(call.token, refuse_exhausted)
        except UnknownKeysFullError:
            async with self._place():
                await failures.count(address)
            raise

    async def read_anew(self, call: Call) -> ApiKey:
        """
        Read the key of a request anew and return it: for requests whose effects outlive the key.

        Raises:
            Problem: The key is not good any more.
            QueueFullError, StoreUnavailableError: The key could not be read.
        """
        key = await self._authenticator.read_anew(call.token)
        if key is None:
            raise _unauthorized()
        return key

    @asynccontextmanager
    async def anonymous(self, call: Call) -> AsyncIterator[None]:
        """
        Give a place to a request without a good key, if it is within the limit of its address.

        Raises:
            Problem: The limit is used up.
            QueueFullError: No place became free in time.
        """
        async with self._counted(call, ANONYMOUS):
            yield

    async def refuse(self, call: Call) -> NoReturn:
        """
        Refuse a request that needs a good key, or has a bad one.

        Raises:
            Problem: The request failed to authenticate, or too many from its address have failed.
            QueueFullError: No place became free in time.
        """
        async with self._counted(call, AUTHENTICATION):
            raise _unauthorized()

    @asynccontextmanager
    async def _counted(self, call: Call, policy: str) -> AsyncIterator[None]:
        limit, address = self._limits[policy], self._address(call)
        # A flood from one address does not even wait for a place.
        _refuse(policy, limit.remembered(address))
        async with self._place():
            _refuse(policy, await limit.count(address))
            yield

    def _address(self, call: Call) -> str:
        return self._proxies.caller(call.remote, call.headers)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if not await self.admission.entered(write=False):
            raise QueueFullError
        try:
            yield
        finally:
            self.admission.leave(write=False)


def _unauthorized() -> Problem:
    return Problem("unauthorized", headers=[("WWW-Authenticate", "Bearer")])


def _refuse(policy: str, wait: int) -> None:
    """
    Refuse a request whose address has to wait.

    Args:
        wait: Microseconds to wait; 0 if the request is within the limit.

    Raises:
        Problem: The address has to wait.
    """
    if wait:
        raise QuotaExceededProblem(policy, wait)
