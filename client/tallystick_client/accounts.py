"""Accounts: opens, reads and changes them, and reads what was posted on them."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from tallystick_client.answers import Account, AccountResult, Entry, Page, PastBalance, Results, Statement
from tallystick_client.operations import D, Pages, Resource, operation, series
from tallystick_client.request import Repeat, Request, changes, get, segment

PATH = "/v1/accounts"
# Rows of a page: the server's maximum.
PAGE_ROWS = 100
# Seconds that one attempt may take for a bulk of a thousand items, and for a statement of any length.
BULK_SECONDS_MAX, STATEMENT_SECONDS_MAX = 30.0, 3_600.0

Order = Literal["created", "effective"]


class AccountItem(Struct, frozen=True):
    """
    An account to open.

    Args:
        id: Chosen by the caller.

        currency: For example `EUR`.

        floor: A transfer out may not bring `available` below this; None means no limit.

        ceiling: A transfer in may not bring the balance and all incoming holds above this; None means no limit.

        metadata: Up to 50 texts by name.
    """

    id: str
    currency: str
    floor: int | None = 0
    ceiling: int | None = None
    metadata: Mapping[str, str] = {}


class Accounts(Resource[D]):
    """Operations on accounts."""

    @operation
    def create(
        self,
        id: str,  # noqa: A002 -- what the ledger calls it
        currency: str,
        *,
        floor: int | None = 0,
        ceiling: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Request[Account]:
        """
        Open an account and return it; if it is already open with the same fields, only return it.

        Args:
            id: Chosen by the caller.

            currency: For example `EUR`.

            floor: A transfer out may not bring `available` below this; None means no limit.

            ceiling: A transfer in may not bring the balance and all incoming holds above this; None means no limit.

            metadata: Up to 50 texts by name.
        """
        body = {"id": id, "currency": currency, "floor": floor, "ceiling": ceiling, "metadata": metadata or {}}
        return Request(method="POST", path=PATH, answer=Account, body=body, repeat=Repeat.KEYED)

    @operation
    def create_many(self, accounts: Iterable[AccountItem]) -> Request[Results[AccountResult]]:
        """Open up to 1,000 accounts, each independently, and return the result of each."""
        body = {"accounts": list(accounts)}
        return Request(
            method="POST",
            path=f"{PATH}/bulk",
            answer=Results[AccountResult],
            body=body,
            repeat=Repeat.KEYED,
            seconds_max=BULK_SECONDS_MAX,
        )

    @operation
    def get(self, id: str, *, min_version: int | None = None) -> Request[Account]:  # noqa: A002
        """Return an account at *min_version* or later, including all changes acknowledged to any caller before."""
        return get(f"{PATH}/{segment(id)}", Account, min_version=min_version)

    @series
    def list(self, *, prefix: str | None = None) -> Pages[Account]:
        """Iterate over all accounts whose ids begin with *prefix*, sorted by id."""
        return Pages(get(PATH, Page[Account], prefix=prefix, limit=PAGE_ROWS))

    @operation
    def update(
        self,
        id: str,  # noqa: A002
        *,
        floor: int | UnsetType | None = UNSET,
        ceiling: int | UnsetType | None = UNSET,
        closed: bool | UnsetType = UNSET,
        metadata: Mapping[str, str | None] | UnsetType | None = UNSET,
        if_version: int | None = None,
    ) -> Request[Account]:
        """
        Change the given fields of an account, and return it.

        Args:
            floor: As in `create`.

            ceiling: As in `create`.

            closed: A closed account takes part in no transfer.

            metadata: Merged into the existing entries; an entry of None removes one, and None as a whole removes all.

            if_version: Change the account only if it has this version; otherwise raise ProblemError
                `precondition_failed`. Without it, a change whose answer is lost is not sent again, because it could
                undo another caller's change.
        """
        return Request(
            method="PATCH",
            path=f"{PATH}/{segment(id)}",
            answer=Account,
            body=changes(floor=floor, ceiling=ceiling, closed=closed, metadata=metadata),
            if_version=if_version,
            repeat=Repeat.NOTHING if if_version is None else Repeat.KEYED,
        )

    @series
    def entries(
        self,
        id: str,  # noqa: A002
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Pages[Entry]:
        """Iterate over the entries of an account, newest first, from *since* on and before *until*."""
        path = f"{PATH}/{segment(id)}/entries"
        return Pages(get(path, Page[Entry], from_=since, to=until, limit=PAGE_ROWS))

    @operation
    def balance(self, id: str, at: datetime, *, by: Order | None = None) -> Request[PastBalance]:  # noqa: A002
        """Return the balance after all entries at or before *at*, by time of posting or by effective time."""
        return get(f"{PATH}/{segment(id)}/balance", PastBalance, at=at, by=by)

    @operation
    def statement(
        self,
        id: str,  # noqa: A002
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        by: Order | None = None,
    ) -> Request[Statement]:
        """Return all entries of a period with the balances before and after it; a long one needs a long deadline."""
        path = f"{PATH}/{segment(id)}/statement"
        return get(path, Statement, STATEMENT_SECONDS_MAX, from_=since, to=until, by=by)
