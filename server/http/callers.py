"""Whose request it is, and what a request without a good key may cost."""

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

# The limits of a network address, as callers read them.
AUTHENTICATION: Final = "authentication"
ANONYMOUS: Final = "anonymous"


def needs_key(call: Call) -> bool:
    """Return whether a request without a good key has failed to authenticate: a page asks for none."""
    return bool(call.token) if call.route is None else call.route.role is not None


class Callers:
    """
    Tells requests with a good key from those without, and bounds the latter.

    A network address has one limit for failed authentications and one for all else that comes without a good key: an
    office that reads the pages of problems does not wait for a broken client behind the same address.

    Args:
        authenticator: Knows the keys.

        failures: The limit of failed authentications.

        anonymous: The limit of other requests without a good key.

        proxies: Whose word on the address of a caller is taken.

    Attributes:
        admission: The places of requests without a good key.

        remembered: Returns the key of a token if it was looked up lately, by the hash of the token.
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
        Refuse a request without a key that is known, if its address is known to have nothing left of its limit.

        Raises:
            Problem: It has not; nothing was asked and nothing looked up.
        """
        if not self._authenticator.knew(call.token_name):
            policy = AUTHENTICATION if needs_key(call) else ANONYMOUS
            _refuse(policy, self._limits[policy].remembered(self._address(call)))

    async def authenticate(self, call: Call) -> ApiKey | None:
        """
        Look up the key that a request came with. It needs no place meanwhile.

        Returns:
            None where the request has no good key. The key of a request for an open page is not looked up.

        Raises:
            Problem: The key is not known, and its address has failed too often for it to be looked up.
            UnknownKeysFullError: It is one of too many keys that are not known.
            QueueFullError, StoreUnavailableError: It could not be looked up.
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
        Return the key of a request as it is kept now: of one whose effects outlive the key.

        Raises:
            Problem: It is good no more.
            QueueFullError, StoreUnavailableError: It could not be looked up.
        """
        key = await self._authenticator.read_anew(call.token)
        if key is None:
            raise _unauthorized()
        return key

    @asynccontextmanager
    async def anonymous(self, call: Call) -> AsyncIterator[None]:
        """
        Give a request without a good key a place, once it is within the limit of its address.

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
        wait: Microseconds; 0 where there is room.

    Raises:
        Problem: There is none.
    """
    if wait:
        raise QuotaExceededProblem(policy, wait)
