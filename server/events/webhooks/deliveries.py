"""
Sends every endpoint the events of its ledger in order, one after another; an event that fails is retried separately.

The position of an endpoint is stored once the outcome of an attempt is known, so an event is sent at least once: after
a crash in between, or while two processes do this for a moment, it is sent again under the same id.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

from server.events.feed import Event, Feed, envelope
from server.events.webhooks.endpoints import OUTCOMES, Endpoint
from server.events.webhooks.records import Outcome, Records
from server.events.webhooks.secrets import UnreadableSecretError, Vault
from server.events.webhooks.sender import Answer, Message, Sender
from server.events.webhooks.turns import Turns
from server.ledger.ids import new_transfer_id
from server.store.background import growing_pause
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, StoreError
from server.store.postgres import Database
from server.telemetry.failpoints import Failpoints
from server.telemetry.metrics import Sample

# Seconds between two looks at all endpoints: a change of an endpoint is noticed within this time. New events of a
# ledger are noticed at once.
LOOK_SECONDS: Final = 0.5
# Endpoints that one statement looks at: some milliseconds of index look-ups.
ENDPOINTS_PAGE: Final = 1_000
# Endpoints that are sent new events at once, and endpoints whose events are retried at once: with a connection for each
# attempt, fewer than the 1,024 files that a process may have open by default.
WALKS_MAX: Final = 256
RETRYING_MAX: Final = 128
# Of these, endpoints of one ledger, and endpoints of all ledgers whose last answer was slow: the others have room,
# however many of these a caller makes.
OF_LEDGER_MAX: Final = 32
SLOW_MAX: Final = 64
# Seconds after which an answer counts as slow. One slow answer ends a turn.
SLOW_SECONDS: Final = 1.0
# Events that an endpoint is sent in one turn.
EVENTS_OF_TURN: Final = 50
# Retries at once at one endpoint, besides the attempt in order: a receiver that is back is not flooded with old events.
RETRIES_AT_ONCE: Final = 3
# Seconds between the attempts for an event: three days in all, long enough for a weekend. Then the event is given up.
RETRY_SECONDS: Final = (5, 30, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
# Share of such a pause by which it may be longer, so that events that failed together are not retried together.
JITTER: Final = 0.1
# First attempts that may fail in a row before the next one waits, and seconds that it then waits: twice as long each
# time, so that a receiver that is down uses no connection that others need. Its events wait in the feed.
FAILURES_FREE: Final = 2
PAUSE_FIRST_SECONDS: Final = 1.0
PAUSE_MAX_SECONDS: Final = 60.0

# An endpoint: its ledger and its id.
Key = tuple[int, UUID]

log = logging.getLogger(__name__)


class _Receiver(NamedTuple):
    """An endpoint that can be sent events, with its secrets and the name of its ledger."""

    key: Key
    endpoint: Endpoint
    secrets: list[bytes]
    ledger: str


class _Failing(NamedTuple):
    """First attempts that have failed in a row, and until when the next one waits, by `time.monotonic`."""

    times: int
    until: float


_WELL: Final = _Failing(0, 0.0)


class Deliveries:
    """
    Delivers webhooks, as a job.

    Args:
        database: Holds endpoints and retries.

        feed: Reads the events.

        vault: Reads the secrets; None if no key for them is configured: then nothing is sent.

        sender: Sends messages.

        failpoints: Where tests inject failures.
    """

    name = "the webhooks"

    def __init__(
        self, database: Database, feed: Feed, vault: Vault | None, sender: Sender, failpoints: Failpoints | None = None
    ) -> None:
        self._database = database
        self._feed = feed
        self._vault = vault
        self._sender = sender
        self._failpoints = failpoints or Failpoints("")
        self._records = Records(database)
        self._walks = Turns(partial(self._work, self._send_next), WALKS_MAX, self._group)
        self._retrying = Turns(partial(self._work, self._try_again), RETRYING_MAX, self._group)
        # The version of each endpoint that is sent events, by ledger and id.
        self._versions: dict[int, dict[UUID, int]] = {}
        self._failing: dict[Key, _Failing] = {}
        # Endpoints whose last answer was slow, or did not come.
        self._slow: set[Key] = set()
        # Endpoints whose secrets cannot be read, so that each is logged once.
        self._unreadable: set[Key] = set()
        self._outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        # Number of events that the endpoint furthest behind has yet to be sent, as of the last look.
        self._behind = 0

    def notice(self, ledger_ids: Collection[int]) -> None:
        """Take note that ledgers have new events."""
        for ledger_id in ledger_ids:
            for endpoint_id in self._versions.get(ledger_id, ()):
                self._ask_walk((ledger_id, endpoint_id))

    async def step(self) -> float:
        """Look at all endpoints, begin the work that is due, and return the seconds until the next look."""
        after: Key = (0, UUID(int=0))
        versions: dict[int, dict[UUID, int]] = {}
        behind = 0
        while True:
            page = await self._database.read("webhook_work_page", *after, ENDPOINTS_PAGE)
            for row in page:
                after = key = (row["ledger_id"], row["id"])
                versions.setdefault(key[0], {})[key[1]] = row["version"]
                if self._version(key) != row["version"]:
                    # Its URL may have changed.
                    self._failing.pop(key, None)
                    self._slow.discard(key)
                behind = max(behind, row["behind"])
                if self._vault is not None:
                    self._versions.setdefault(key[0], {})[key[1]] = row["version"]
                    if row["behind"]:
                        self._ask_walk(key)
                    if row["due"]:
                        self._retrying.ask(key)
            if len(page) < ENDPOINTS_PAGE:
                break
        if versions and self._vault is None and not self._versions:
            log.error("webhooks are not sent: webhook_key is not set")
        self._versions, self._behind = versions, behind
        self._failing = {key: failing for key, failing in self._failing.items() if self._version(key) is not None}
        self._unreadable = {key for key in self._unreadable if self._version(key) is not None}
        self._slow = {key for key in self._slow if self._version(key) is not None}
        return LOOK_SECONDS

    async def close(self) -> None:
        """Stop sending. A message in flight that is not answered at once may arrive, and is then sent again."""
        # Endpoints that are not listed here are sent nothing more.
        self._versions.clear()
        await asyncio.gather(self._walks.close(), self._retrying.close())
        await self._records.drain()
        await self._sender.close()
        self._behind = 0

    def samples(self) -> Iterator[Sample]:
        """Return the job's metrics."""
        for outcome, number in self._outcomes.items():
            yield Sample("tallystick_webhook_attempts_total", (outcome,), number)
        yield Sample("tallystick_webhook_lag_events", (), self._behind)

    def _version(self, key: Key) -> int | None:
        """Return the version of an endpoint as it was last seen; None for an endpoint that is not sent anything."""
        return self._versions.get(key[0], {}).get(key[1])

    def _group(self, key: Key) -> tuple[Hashable, int]:
        """Return the group that shares places with an endpoint, and the number of its places."""
        return ("slow", SLOW_MAX) if key in self._slow else (key[0], OF_LEDGER_MAX)

    def _rests(self, key: Key) -> bool:
        """Return whether an endpoint has failed so often that it is not sent new events yet."""
        return self._failing.get(key, _WELL).until > time.monotonic()

    def _ask_walk(self, key: Key) -> None:
        if self._vault is not None and not self._rests(key):
            self._walks.ask(key)

    async def _work(self, turn: Callable[[_Receiver], Awaitable[bool]], key: Key) -> bool:
        """Do a turn's work for an endpoint, and return whether there is more; after a failure the next look does."""
        try:
            receiver = await self._load(key)
            return receiver is not None and await turn(receiver)
        except (StoreError, DatabaseError, QueueFullError) as error:
            log.warning("webhooks of ledger %d are held up: %s", key[0], str(error) or type(error).__name__)
        except Exception:
            log.exception("webhooks of ledger %d failed", key[0])
        return False

    async def _load(self, key: Key) -> _Receiver | None:
        """Return the endpoint to send to; None if nothing can be sent."""
        assert self._vault is not None, "nothing is asked for without it"
        rows = await self._database.read("webhook_endpoint_read", *key)
        if not rows:
            return None
        endpoint = Endpoint(*rows[0].values())
        if endpoint.disabled is not None:
            return None
        try:
            secrets = self._vault.open(endpoint.secrets)
        except UnreadableSecretError as error:
            if key not in self._unreadable:
                self._unreadable.add(key)
                log.error("webhooks of ledger %d are not sent: %s", key[0], error)
            return None
        if key[1] in self._versions.get(key[0], ()):
            self._versions[key[0]][key[1]] = endpoint.version
        return _Receiver(key, endpoint, secrets, await self._feed.ledger_name(key[0]))

    async def _send_next(self, receiver: _Receiver) -> bool:
        """Send an endpoint its next events, one after another; return whether there are more to send now."""
        key, endpoint = receiver.key, receiver.endpoint
        if self._rests(key):
            # It has failed since this turn was asked for.
            return False
        page = await self._feed.page(key[0], endpoint.position, EVENTS_OF_TURN, types=endpoint.type_names)
        reached = endpoint.position
        for event in page.events:
            if self._version(key) != endpoint.version:
                # The endpoint was changed or removed.
                return self._version(key) is not None
            answer, moved = await self._deliver(receiver, event)
            may_go_on = self._may_go_on(key, answer)
            if not (moved and may_go_on):
                return False
            reached = event.position
            if key in self._slow:
                # Other endpoints have their turns before the next event.
                return True
        if page.next_after > reached:
            # The position also passes the events that the endpoint is not sent.
            await self._records.write(Outcome(*key, endpoint.replay, page.next_after))
        return page.next_after < page.head

    def _may_go_on(self, key: Key, answer: Answer) -> bool:
        """Record how a first attempt ended, and return whether the next one may follow at once."""
        if answer.delivered:
            self._failing.pop(key, None)
            return True
        times = self._failing.get(key, _WELL).times + 1
        counted = times - FAILURES_FREE
        pause = growing_pause(counted, PAUSE_FIRST_SECONDS, PAUSE_MAX_SECONDS) if counted > 0 else 0.0
        self._failing[key] = _Failing(times, time.monotonic() + pause)
        return pause == 0.0

    async def _try_again(self, receiver: _Receiver) -> bool:
        """Retry some events that are due at an endpoint; return whether there may be more of them."""
        key = receiver.key
        due = await self._database.read("webhook_retry_due", *key, RETRIES_AT_ONCE)

        async def attempt(position: int, attempts: int) -> None:
            page = await self._feed.page(key[0], position - 1, 1)
            await self._deliver(receiver, page.events[0], attempts + 1)

        ended = await asyncio.gather(*(attempt(*row.values()) for row in due), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
        return len(due) == RETRIES_AT_ONCE and self._version(key) is not None

    async def _deliver(self, receiver: _Receiver, event: Event, attempt: int = 1) -> tuple[Answer, bool]:
        """Make an attempt and record its outcome; return the answer, and whether the position moved on."""
        key, endpoint, secrets, ledger = receiver
        at = datetime.now(UTC)
        message = Message(f"{ledger}/{event.position}", envelope(event, ledger))
        answer = await self._sender.send(endpoint.url, message, secrets)
        if answer.duration_ms > SLOW_SECONDS * 1000:
            self._slow.add(key)
        else:
            self._slow.discard(key)
        await self._failpoints.reach("webhooks.answered")
        outcome = _outcome(answer, attempt)
        self._outcomes[outcome] += 1
        moved = await self._records.write(
            Outcome(
                *key,
                endpoint.replay,
                event.position if attempt == 1 else None,
                event.position,
                attempt,
                outcome,
                pause_seconds(attempt) if outcome == "failed" else None,
                new_transfer_id(),
                event.type,
                at,
                answer.duration_ms,
                answer.status,
                answer.error,
                answer.body,
            )
        )
        await self._failpoints.reach("webhooks.recorded")
        if outcome == "gone":
            # It is sent nothing from now on, not only from the next look on.
            self._versions.get(key[0], {}).pop(key[1], None)
        return answer, moved


def _outcome(answer: Answer, attempt: int) -> str:
    if answer.delivered:
        return "delivered"
    if answer.gone:
        return "gone"
    return "failed" if attempt <= len(RETRY_SECONDS) else "dead"


def pause_seconds(attempts: int) -> float:
    """Return the seconds until the next attempt, after this many; there is none after the last one."""
    return RETRY_SECONDS[attempts - 1] * (1 + random.random() * JITTER)  # noqa: S311 -- jitter, not a secret
