"""Limits what a key that is narrowed to accounts can do: for it, other accounts do not exist."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

from server.http.call import Call
from server.http.models import is_account_id
from server.http.problems import KINDS, Problem
from server.ledger.narrowed import ParentSides, Sides
from server.ledger.prefixes import Prefixes
from server.ledger.transfers import Outcome, TransferRequest
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreUnavailableError

Post = Callable[[Sequence[TransferRequest]], Awaitable[Sequence[Outcome]]]


def named_account(call: Call, retry: str | None = None) -> str:
    """
    Return the account in the path.

    Args:
        retry: The `retry` of the problem, if it differs from what the code usually means.

    Raises:
        Problem: The text is not an account id, or the key does not see the account.
    """
    account = call.names[0]
    accounts = call.key.accounts
    if not is_account_id(account) or (accounts is not None and not accounts.has(account)):
        raise Problem("account_not_found", retry=retry)
    return account


def check_opening(call: Call, account: str) -> None:
    """
    Refuse to open an account that the key may not open.

    Raises:
        Problem: The key may not open it; this does not show whether the account exists.
    """
    accounts = call.key.accounts
    if accounts is not None and not accounts.has(account):
        raise Problem(
            "forbidden", f"The key may only open accounts whose ids begin with {' or '.join(accounts.texts)}."
        )


class Narrowing:
    """
    Refuses transfers of accounts that a key does not see, before their idempotency keys are looked up or bound.

    Args:
        parents: Finds the accounts of requests.
    """

    def __init__(self, parents: ParentSides) -> None:
        self._parents = parents

    async def check(self, call: Call, request: TransferRequest) -> None:
        """
        Refuse a request unless the key sees both of its accounts.

        Raises:
            Problem: The key does not see both accounts. The idempotency key is not bound, because another API key that
                uses it may see more.
            QueueFullError, StoreUnavailableError: The accounts could not be looked up.
        """
        if call.key.accounts is not None:
            [problem] = await self.problems(call, [request])
            if problem is not None:
                raise problem

    async def problems(self, call: Call, requests: Sequence[TransferRequest]) -> list[Problem | None]:
        """Return the problem of each request, as `check` raises it; a parent may be made by an earlier request."""
        accounts = call.key.accounts
        if accounts is None:
            return [None] * len(requests)
        return [_problem(sides, accounts) for sides in await self._parents.find(call.ledger_id, requests)]

    async def post_in_parts(
        self, call: Call, requests: Sequence[TransferRequest], post: Post
    ) -> Sequence[Outcome | Problem]:
        """
        Post requests in order and independently, except those that are refused here.

        If a request names its parent by the key of an earlier request, the parent is looked up only after that request
        has been posted: until then another caller could bind the key to hidden accounts. A key that is bound already
        cannot change, so it needs no new part; a bulk that is sent again thus continues fast where it was cut off.

        Raises:
            As *post* does; also OutcomeUnknownError, if a part was posted.
        """
        if call.key.accounts is None:
            return await post(requests)
        outcomes: list[Outcome | Problem] = []
        bound = await self._parents.bound(call.ledger_id, requests)
        for part in _parts(requests, bound):
            try:
                outcomes += await self.post_whole(call, part, post)
            except (QueueFullError, StoreUnavailableError) as error:
                if not outcomes:
                    raise
                raise OutcomeUnknownError("a part was posted") from error
        return outcomes

    async def post_whole(
        self, call: Call, requests: Sequence[TransferRequest], post: Post
    ) -> Sequence[Outcome | Problem]:
        """Post requests in order, except those that are refused here."""
        problems = await self.problems(call, requests)
        good = [request for request, problem in zip(requests, problems, strict=True) if problem is None]
        outcomes = iter(await post(good) if good else ())
        return [next(outcomes) if problem is None else problem for problem in problems]


def _parts(requests: Sequence[TransferRequest], bound: Collection[object]) -> Iterator[list[TransferRequest]]:
    """Split requests into parts: a new one begins where a parent's key, if not *bound*, is that of the present part."""
    part: list[TransferRequest] = []
    keys: set[str | None] = set()
    for request in requests:
        if request.parent_key is not None and request.parent_key in keys:
            yield part
            part, keys = [], set()
        part.append(request)
        if request.key not in bound:
            keys.add(request.key)
    if part:
        yield part


def _problem(sides: Sides | None, accounts: Prefixes) -> Problem | None:
    if sides is None:
        return _missing("transfer_not_found", "parent")
    hidden = [name for name in ("source", "destination") if not accounts.has(getattr(sides, name))]
    if not hidden:
        return None
    if sides.parent and (len(hidden) > 1 or sides.refused):
        return _missing("transfer_not_found", "parent")
    return _missing("account_not_found", hidden[0])


def _missing(code: str, side: str) -> Problem:
    """Return a refusal with the text of a bound one. It is not bound, but the same request can only fail again."""
    sentence = KINDS[code].sentence
    assert sentence is not None, "transfers are refused with it"
    return Problem(code, sentence.format(side=side), retry="never", members={"pointer": f"/{side}"})
