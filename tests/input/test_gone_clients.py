"""Clients that disconnect: their complete requests are done once or not at all, and their resources are freed."""

import asyncio
from functools import partial

import aiohttp
import pytest

from server.http import admission
from tests.input.wire import Wire, connect
from tests.support.client import Client, new_key
from tests.support.hot import BODY, CHUNKED, OTHER_BODY, Hot, answered, send_in_pieces
from tests.support.locks import held, somebody_waits
from tests.support.service import ServerProcess, make_key
from tests.support.waiting import WAIT_SECONDS, until

WAYS = pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])


async def leave(wire: Wire, hot: Hot, *, reset: bool) -> None:
    """Disconnect, and return once the server has noticed."""
    before = hot.server.open_connections.count
    if reset:
        wire.writer.transport.abort()
    else:
        wire.writer.close()
    await until(lambda: hot.server.open_connections.count < before)


@WAYS
@pytest.mark.parametrize("before", [0, 1], ids=["at first", "behind another"])
@pytest.mark.parametrize("stage", ["half a head", "a head", "half a body", "half a chunk"])
async def test_gone_within_a_request(
    hot: Hot, stage: str, before: int, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An incomplete request is not done, and no error is logged."""
    key = new_key()
    whole = hot.post(key)
    part = {
        "half a head": whole[:60],
        "a head": whole[: -len(BODY)],
        "half a body": whole[:-20],
        "half a chunk": hot.post(key, CHUNKED, body=None) + b"20\r\n" + BODY[:9],
    }[stage]
    async with connect(hot.url) as wire:
        await send_in_pieces(wire, hot.get() * before + part, [])
        for _ in range(before):
            assert (await answered(wire)).status == 200
        if "head" not in stage or stage == "a head":
            await until(lambda: hot.admission.arriving_bytes > 0)
        await leave(wire, hot, reset=reset)
    await hot.quiet()
    assert not await hot.bound(key)
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@WAYS
async def test_gone_while_the_posting_runs(hot: Hot, reset: bool) -> None:
    """A running posting is done once although its client disconnects; requests pipelined behind it are not done."""
    before = await hot.client.balance("alice")
    key, behind = new_key(), new_key()
    database_url = hot.service.database_url
    async with held(database_url, "alice"), connect(hot.url) as wire:
        await wire.send(hot.post(key) + hot.post(behind))
        await until(partial(somebody_waits, database_url))
        await leave(wire, hot, reset=reset)
        # The posting waits for the locked account, without a place.
        await hot.counted()
        assert len(hot.server.pipeline.running) == 1
    await hot.quiet()
    assert await hot.bound(key)
    assert not await hot.bound(behind)
    answer = await hot.client.send("POST", "/v1/transfers", raw=BODY, headers={"Idempotency-Key": key})
    assert (answer.status, answer.replayed) == (201, True)
    assert await hot.client.balance("alice") == before + 1


@WAYS
async def test_gone_while_the_gate_is_asked(hot: Hot, reset: bool) -> None:
    """When a client disconnects, its read ends; its complete posting is done once or not at all."""
    before = await hot.client.balance("alice")
    key = new_key()
    for data, counts in ((hot.get(), (1, 0)), (hot.get("nobody"), (1, 0)), (hot.post(key), (0, 1))):
        with hot.redis_held():
            async with connect(hot.url) as wire:
                await wire.send(data)
                await hot.counted(*counts)
                await leave(wire, hot, reset=reset)
        await hot.quiet()
    assert await hot.client.balance("alice") == before + await hot.bound(key)


@WAYS
@pytest.mark.parametrize("whole", [True, False], ids=["hot", "body to come"])
async def test_gone_while_waiting_for_a_place(
    hot: Hot, monkeypatch: pytest.MonkeyPatch, reset: bool, whole: bool
) -> None:
    """A client that disconnects while it waits for a place is not served; the next one gets the place."""
    monkeypatch.setattr(admission, "RUNNING_MAX", 1)
    monkeypatch.setattr(admission, "WAIT_SECONDS", 60.0)
    keys = [new_key() for _ in range(3)]
    gone = hot.post(keys[1]) if whole else hot.post(keys[1], CHUNKED, body=None)
    async with connect(hot.url) as first, connect(hot.url) as patient:
        with hot.redis_held():
            await first.send(hot.post(keys[0], body=OTHER_BODY))
            await hot.counted(0, 1)
            await patient.send(hot.post(keys[2], body=OTHER_BODY))
            await hot.counted(0, 1, 0, 1)
            async with connect(hot.url) as wire:
                await wire.send(gone)
                await hot.counted(0, 1, 0, 2)
                await leave(wire, hot, reset=reset)
        assert (await answered(first)).status == 201
        assert (await answered(patient)).status == 201
    await hot.quiet()
    assert [await hot.bound(key) for key in keys] == [True, False, True]


@WAYS
async def test_gone_anywhere(hot: Hot, reset: bool) -> None:
    """Wherever the connection is cut, a posting is done once or not at all, and all resources are freed."""
    before = await hot.client.balance("alice")
    keys = [new_key() for _ in range(40)]
    size = len(hot.post(keys[0]))
    for number, key in enumerate(keys):
        async with connect(hot.url) as wire:
            await wire.send((hot.get() + hot.post(key))[: size + number * 10])
            for _ in range(number % 7):
                await asyncio.sleep(0)
            if reset:
                wire.writer.transport.abort()
    await hot.quiet()
    done = [await hot.bound(key) for key in keys]
    assert await hot.client.balance("alice") == before + sum(done)
    retries = [
        await hot.client.send("POST", "/v1/transfers", raw=BODY, headers={"Idempotency-Key": key}) for key in keys
    ]
    assert [answer.replayed for answer in retries] == done
    assert await hot.client.balance("alice") == before + len(keys)


async def test_told_to_stop_with_requests_sent_ahead(
    server_process: ServerProcess, database_url: str, hot: Hot
) -> None:
    """
    A server that stops answers the running requests of a connection, and then closes it.

    Requests pipelined behind the last answer have not been done.
    """
    server = server_process
    await server.start()
    token = await make_key(database_url, "stopping")
    client = Client(hot.service.session, server.url, token)
    await client.fund("alice", 0)
    keys = [new_key() for _ in range(5)]
    async with connect(server.url) as wire, connect(server.url) as idle:
        await idle.send(hot.get(token=token))
        assert (await answered(idle)).status == 200
        async with held(database_url, "alice"):
            await wire.send(b"".join(hot.post(key, token=token) for key in keys))
            await until(partial(somebody_waits, database_url))
            server.kill(15)
            await until(partial(stopping, client))
        answers = await wire.receive_all()
        assert await idle.receive() is None
    assert await server.wait() == 0
    assert [answer.status for answer in answers] == [201] * len(answers)
    assert 1 <= len(answers) < len(keys)
    await server.start()
    done = [(await client.get(f"/v1/idempotency-keys/{key}")).status == 200 for key in keys]
    assert done == [True] * len(answers) + [False] * (len(keys) - len(answers))
    assert await client.balance("alice") == len(answers)
    async with asyncio.timeout(WAIT_SECONDS):
        await server.stop()


async def stopping(client: Client) -> bool:
    """Return whether the server reports that it is stopping, or no longer accepts connections."""
    try:
        return (await client.get("/readyz")).status == 503
    except aiohttp.ClientError:
        return True
