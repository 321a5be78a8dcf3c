"""
The leader of a database's background processes: the process whose session holds a lock.

PostgreSQL ends the session of a leader that gives no sign of life, and so releases the lock: another process leads
within seconds, whether the leader has ended, is frozen or is cut off. A leader that comes back notices this at its next
ping and stops its jobs. Until then both may run a step, so running a step twice must have the effect of running it
once.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Final

from server.background.jobs import Job, keep, pause_seconds
from server.store.background import stop
from server.store.errors import DatabaseError, StoreError
from server.store.sessions import SESSION_SETTINGS, Session, session
from server.store.sql import query
from server.telemetry.metrics import Sample

# The number of the lock, which belongs to one database; migrations use another one.
LEADER_KEY: Final = 0x7A11_9571_C501
# Seconds between two attempts to become the leader, and between two pings of the leader.
ELECTION_SECONDS: Final = 1.0
PING_SECONDS: Final = 1.0
# Milliseconds without a ping after which PostgreSQL ends the session. Three pings may be late; together with an attempt
# of another process this is less than 5 s.
IDLE_SESSION_TIMEOUT_MS: Final = 3_000
# Seconds in which a ping must be answered: a leader that is cut off stops by the time its session is ended.
COMMAND_SECONDS: Final = 2.0
# Seconds that closing the session may take: a server that does not answer has ended it, or will.
CLOSE_SECONDS: Final = 0.5

LEADER_SETTINGS: Final = {
    **SESSION_SETTINGS,
    "application_name": "tallystick-leader",
    "idle_session_timeout": str(IDLE_SESSION_TIMEOUT_MS),
}

log = logging.getLogger(__name__)


class Leader:
    """
    Takes part in the election, and runs jobs while it leads.

    Args:
        dsn: Address of the database.

        jobs: The jobs of the leader.

    Attributes:
        leads: Whether this process is the leader, as far as it knows.
    """

    def __init__(self, dsn: str, jobs: Sequence[Job]) -> None:
        self._dsn = dsn
        self._jobs = tuple(jobs)
        self._said = ""
        self.leads = False

    def samples(self) -> Iterator[Sample]:
        """Return whether it leads, and the metrics of its jobs."""
        yield Sample("tallystick_background_leads", (), int(self.leads))
        for job in self._jobs:
            yield from job.samples()

    async def run(self) -> None:
        """Take part in the election until cancelled; then the jobs are stopped and another process may lead."""
        failures = 0
        while True:
            try:
                async with session(self._dsn, LEADER_SETTINGS, CLOSE_SECONDS, command_seconds=COMMAND_SECONDS) as own:
                    failures = 0
                    await self._stand(own)
            except (StoreError, DatabaseError, OSError) as error:
                failures += 1
                self._say("cannot stand for election", f": {error}")
            await asyncio.sleep(pause_seconds(failures))

    async def _stand(self, own: Session) -> None:
        """Become the leader and lead until the session is lost."""
        while not (await own.fetch(query("leader_lock"), LEADER_KEY))[0]["leads"]:
            self._say("waits: another process leads")
            await asyncio.sleep(ELECTION_SECONDS)
        self._say("leads")
        self.leads = True
        running = [asyncio.create_task(keep(job)) for job in self._jobs]
        try:
            while True:
                await asyncio.sleep(PING_SECONDS)
                await own.fetch(query("leader_ping"))
        finally:
            self.leads = False
            await stop(*running)

    def _say(self, state: str, reason: str = "") -> None:
        """Log a state, with its reason, unless it is the state that was logged last."""
        if state != self._said:
            self._said = state
            log.warning("the background process %s%s", state, reason)
