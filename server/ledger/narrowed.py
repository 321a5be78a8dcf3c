"""Hides from a caller who may not see all accounts what transfers say about the others."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar
from uuid import UUID

from server.ledger.history import Entry
from server.ledger.prefixes import Prefixes
from server.ledger.statements import Line
from server.ledger.transfers import CHILDREN, Attempt, TransferRequest
from server.store.postgres import Database

T = TypeVar("T", Entry, Line)


class Sides(NamedTuple):
    """The accounts that a request is about; None if its parent is a refusal that has none."""

    source: str | None
    destination: str | None
    # Whether they are those of a parent, and whether that was refused.
    parent: bool = False
    refused: bool = False


def seen(attempt: Attempt, accounts: Prefixes | None) -> Attempt | None:
    """
    Return the part of an attempt that a caller who sees these accounts may see; None if that is nothing.

    A transfer is visible from either side, without what it says about a hidden account. The reason of a refusal may
    concern both sides, so only a caller who sees both sees the refusal.
    """
    if accounts is None:
        return attempt
    sees_source, sees_destination = accounts.has(attempt.source), accounts.has(attempt.destination)
    if sees_source and sees_destination:
        return attempt
    if attempt.refusal is None and sees_source:
        return attempt._replace(destination=None, destination_balance=None, destination_version=None)
    if attempt.refusal is None and sees_destination:
        return attempt._replace(source=None, source_balance=None, source_version=None)
    return None


def without_hidden(lines: Sequence[T], accounts: Prefixes | None) -> Sequence[T]:
    """Return entries, without counterparties that a caller who sees these accounts may not see."""
    if accounts is None:
        return lines
    return [line if accounts.has(line.counterparty) else line._replace(counterparty=None) for line in lines]


class ParentSides:
    """
    Finds the accounts of requests, also of requests that name a parent. They never change, so the result stays true.

    Args:
        database: Holds the parents.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, ledger_id: int, requests: Sequence[TransferRequest]) -> list[Sides | None]:
        """
        Return the sides of each request, in order; None if its parent neither exists nor is made by an earlier request.

        Raises:
            QueueFullError, StoreUnavailableError: The parents could not be read.
        """
        parents = await self._parents(ledger_id, requests)
        found: list[Sides | None] = []
        made: dict[str | None, Sides | None] = {}
        for request in requests:
            if request.kind in CHILDREN:
                sides = parents.get(request.parent_key or request.parent) or made.get(request.parent_key)
                if sides is not None:
                    source, destination = sides[:2] if request.kind != "reversal" else sides[1::-1]
                    sides = Sides(source, destination, parent=True, refused=sides.refused)
            else:
                sides = Sides(request.source, request.destination)
            found.append(sides)
            made[request.key] = sides
        return found

    async def bound(self, ledger_id: int, requests: Iterable[TransferRequest]) -> Collection[object]:
        """
        Return which keys of parents are bound; the result has other values, too.

        Raises:
            As `find`.
        """
        return await self._parents(ledger_id, requests)

    async def _parents(self, ledger_id: int, requests: Iterable[TransferRequest]) -> Mapping[UUID | str | None, Sides]:
        """Return the sides of the parents that exist, by their ids and their keys."""
        children = [request for request in requests if request.kind in CHILDREN]
        if not children:
            return {}
        ids = {request.parent for request in children if request.parent is not None}
        keys = {request.parent_key for request in children if request.parent_key is not None}
        rows = await self._database.read("transfer_sides_many", ledger_id, list(ids), list(keys))
        sides = [(row, Sides(row["source"], row["destination"], refused=row["refused"])) for row in rows]
        return {name: of for row, of in sides for name in (row["id"], row["idempotency_key"])}
