"""The background process is killed with -9 before or after it records an answer, and nothing is lost."""

import signal
from pathlib import Path

import pytest

from tests.support.background import BackgroundProcess
from tests.support.service import LOOPBACK, WEBHOOK_KEY, Service
from tests.support.waiting import until
from tests.webhooks.conftest import happen, listed, make, now
from tests.webhooks.receiver import receiving, status

EVENTS = 12


@pytest.mark.parametrize(("name", "doubled"), [("webhooks.answered", [5]), ("webhooks.recorded", [])])
async def test_killed_at_a_failpoint(own: Service, tmp_path: Path, name: str, doubled: list[int]) -> None:
    """Every event arrives in order; one whose outcome was not recorded arrives twice, with the same id."""
    client = await own.client("killed")
    settings = {"TALLYSTICK_WEBHOOK_KEY": WEBHOOK_KEY, "TALLYSTICK_WEBHOOK_PRIVATE_NETWORKS": LOOPBACK}
    log = tmp_path / "log"
    async with receiving(status(200)) as receiver:
        made = await make(client, receiver.url())
        await happen(client, EVENTS)
        doomed = BackgroundProcess(
            own.database_url, log, own.redis_url, {**settings, "TALLYSTICK_FAILPOINTS": f"{name}=kill@5"}
        )
        other = BackgroundProcess(own.database_url, log, own.redis_url, settings)
        try:
            await doomed.start()
            assert await doomed.wait() == -signal.SIGKILL
            assert receiver.positions == [1, 2, 3, 4, 5]
            await other.start()

            async def arrived() -> bool:
                return bool((await now(client, made))["position"] == EVENTS)

            await until(arrived, 30)
        finally:
            await doomed.stop()
            await other.stop()
        assert receiver.positions == [1, 2, 3, 4, 5, *doubled, *range(6, EVENTS + 1)]
        ids = {request.headers["webhook-id"] for request in receiver.requests}
        assert ids == {f"killed/{position}" for position in range(1, EVENTS + 1)}
        rows = await listed(client, made, "deliveries")
        assert sorted(row["position"] for row in rows) == list(range(1, EVENTS + 1))
        assert await listed(client, made, "undelivered") == []
