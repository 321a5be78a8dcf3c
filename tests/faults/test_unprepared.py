"""A Postgres on which `migrate` has never run, and which lacks our roles."""

from server.gate.tokens import new_key
from server.store.migrations import migrate
from tests.support.client import Client
from tests.support.own_postgres import OwnPostgres
from tests.support.service import in_process


async def test_requests_before_the_first_migration(own_postgres: OwnPostgres) -> None:
    """Until the service's role exists, requests get 503; after the migration they are served without a restart."""
    async with in_process(own_postgres.database_url) as service:
        stranger = Client(service.session, service.url, new_key(1).token)
        answer = await stranger.get("/v1/accounts")
        assert (answer.status, answer.code) == (503, "unavailable")
        ready = await stranger.get("/readyz")
        assert ready.status == 503
        assert "run `tallystick migrate`" in ready.body.decode()
        await migrate(own_postgres.database_url)
        client = await service.client("books")
        assert (await client.open("alice")).status == 201
