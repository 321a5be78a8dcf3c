"""A queue that several groups share fairly: self-clocked fair queueing (Golestani, 1994)."""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic

from server.store.coalescer import Entry, Item, Result

# Seconds after which the item that has waited longest goes with the next batch, whatever its weight. Otherwise a heavy
# one might wait for ever where enough groups have light ones.
PATIENCE_SECONDS: Final = 0.5


class _Group(Generic[Item, Result]):
    """What waits of a group: its entries, and their weight."""

    __slots__ = ("entries", "name", "weight")

    def __init__(self, name: int) -> None:
        self.name = name
        self.entries: deque[Entry[Item, Result]] = deque()
        self.weight = 0


class FairQueue(Generic[Item, Result]):
    """
    The queue of a `Coalescer` whose items belong to groups.

    Each group that waits gets the same weight sent as every other one, in the order in which its items came. An item is
    due at the weight that each group has been sent when its turn comes, and the one that is due first goes first: what
    is light goes before what is heavy, and the heavy one after as much has been sent of every other group.

    Args:
        group: Returns the group of an item.
    """

    def __init__(self, group: Callable[[Item], int]) -> None:
        self._group = group
        self._groups: dict[int, _Group[Item, Result]] = {}
        # When the first item of each group is due, by weight; a serial number tells equal ones apart.
        self._due: list[tuple[int, int, _Group[Item, Result]]] = []
        self._serials = count()
        # When the item was due that was taken last.
        self._clock = 0
        self._count = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._count

    def append(self, entry: Entry[Item, Result]) -> None:
        """Add an item."""
        name = self._group(entry[0])
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name)
            heappush(self._due, (self._clock + entry[1], next(self._serials), group))
        group.entries.append(entry)
        group.weight += entry[1]
        self._count += 1

    def take(self, most: int, now: float) -> list[Entry[Item, Result]]:
        """
        Return the items of the next batch, at least one if any waits.

        Args:
            most: Weight of the batch. An item that is heavier comes alone; one that has waited too long comes on top.

            now: On the clock of their arrival.
        """
        batch = self._overdue(now)
        load, due = 0, self._due
        while due and not (batch and batch[0][1] > most):
            at, _, group = due[0]
            weight = group.entries[0][1]
            if batch and load + weight > most:
                break
            load += weight
            self._clock = at
            batch.append(group.entries.popleft())
            group.weight -= weight
            if group.entries:
                heapreplace(due, (at + group.entries[0][1], next(self._serials), group))
            else:
                heappop(due)
                del self._groups[group.name]
        self._count -= len(batch)
        return batch

    def ahead(self, group: int, weight: int) -> int:
        """Return the weight that is sent until *weight* more of a group has been sent."""
        own = self._groups.get(group)
        least = weight if own is None else own.weight + weight
        return least + sum(min(other.weight, least) for other in self._groups.values() if other is not own)

    def _overdue(self, now: float) -> list[Entry[Item, Result]]:
        """Take the item that has waited longest, if it has waited too long."""
        oldest = min(self._groups.values(), key=lambda group: group.entries[0][3], default=None)
        if oldest is None or oldest.entries[0][3] > now - PATIENCE_SECONDS:
            return []
        entry = oldest.entries.popleft()
        oldest.weight -= entry[1]
        self._due = [due for due in self._due if due[2] is not oldest]
        if oldest.entries:
            self._due.append((self._clock + entry[1] + oldest.entries[0][1], next(self._serials), oldest))
        else:
            del self._groups[oldest.name]
        heapify(self._due)
        return [entry]
