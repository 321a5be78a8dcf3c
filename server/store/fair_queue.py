"""A queue that several groups share fairly: self-clocked fair queueing (Golestani, 1994)."""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic

from server.store.coalescer import Entry, Item, Result

# Seconds after which the item that has waited longest joins the next batch, whatever its weight. Without this, a heavy
# item might wait for ever while enough groups send light ones.
PATIENCE_SECONDS: Final = 0.5


class _Group(Generic[Item, Result]):
    """The waiting entries of a group, and their total weight."""

    __slots__ = ("entries", "name", "weight")

    def __init__(self, name: int) -> None:
        self.name = name
        self.entries: deque[Entry[Item, Result]] = deque()
        self.weight = 0


class FairQueue(Generic[Item, Result]):
    """
    A queue for a `Coalescer` that shares the batches fairly between groups of items.

    Every group that waits gets the same weight sent, and its items are sent in the order in which they arrived. The
    queue's clock counts the weight sent per group. An item is due when the clock has advanced by the item's weight
    since the group's previous item was due, or since it arrived if its group was empty. The item that is due first is
    sent first: a light item goes before a heavy one, and a heavy item goes once as much has been sent of every other
    group.

    Args:
        group: Returns the group of an item.
    """

    def __init__(self, group: Callable[[Item], int]) -> None:
        self._group = group
        self._groups: dict[int, _Group[Item, Result]] = {}
        # When the first item of each group is due, on the queue's clock; a serial number orders equal times.
        self._due: list[tuple[int, int, _Group[Item, Result]]] = []
        self._serials = count()
        # When the item taken last was due.
        self._clock = 0
        self._count = 0

    def __len__(self) -> int:
        """Return the number of items that wait."""
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
        Remove and return the items of the next batch, at least one if any waits.

        Args:
            most: Maximum weight of the batch. A heavier item is returned alone; an overdue item is not counted.

            now: The present time, on the clock of the items' arrival.
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
        """Return how much weight, of all groups together, is sent until *weight* more of *group* has been sent."""
        own = self._groups.get(group)
        least = weight if own is None else own.weight + weight
        return least + sum(min(other.weight, least) for other in self._groups.values() if other is not own)

    def _overdue(self, now: float) -> list[Entry[Item, Result]]:
        """Remove and return the item that has waited longest, if it has waited longer than `PATIENCE_SECONDS`."""
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
