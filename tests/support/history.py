"""Records everything that clients send and every answer that they get."""

import asyncio
from typing import Any

import aiohttp
import orjson

from tests.support.books import Operation, check_books, check_history, items, meaning, verdict
from tests.support.client import Answer, Client

# Seconds after which a missing answer fails the test: nothing in the service may take this long.
ANSWER_SECONDS = 20.0
# Seconds between a client's retries, and seconds within which a service must be back after faults have stopped.
RETRY_SECONDS = 0.05
BACK_SECONDS = 45.0


class History:
    """
    Sends requests to one ledger, and records them with their answers.

    Args:
        database_url: The address of the ledger's database.

        ledger: The name of the ledger.
    """

    def __init__(self, database_url: str, ledger: str) -> None:
        self.database_url = database_url
        self.ledger = ledger
        self.operations: list[Operation] = []
        # The operations that were sent alone, not in a bulk.
        self._singles: list[Operation] = []
        # The errors because of which answers did not come.
        self.errors: list[Exception] = []

    async def transfer(self, client: Client, key: str, source: str, destination: str, amount: int) -> Answer | None:
        """Send a transfer and record its answer; return None if none came."""
        fields = {"source": source, "destination": destination, "amount": amount, "currency": "EUR"}
        body = orjson.dumps(fields)
        answer = await self._hear(client, "/v1/transfers", body, {"Idempotency-Key": key})
        self.operations.append(Operation(key, meaning(fields), fields, answer))
        self._singles.append(self.operations[-1])
        return answer

    async def bulk(self, client: Client, requests: list[dict[str, Any]], *, atomic: bool = False) -> Answer | None:
        """Send a bulk; each request is a transfer with its key, source, destination and amount."""
        filled = [{"currency": "EUR", **request} for request in requests]
        body = orjson.dumps({"atomic": atomic, "transfers": filled})
        answer = await self._hear(client, "/v1/transfers/bulk", body, {})
        self.operations += items(filled, answer)
        return answer

    async def insist(self, client: Client, key: str, source: str, destination: str, amount: int) -> Answer:
        """Send a transfer repeatedly under its key until it has a definite answer."""
        async with asyncio.timeout(BACK_SECONDS):
            while True:
                answer = await self.transfer(client, key, source, destination, amount)
                if answer is not None and verdict(answer) in ("posted", "refused", "reused"):
                    return answer
                await asyncio.sleep(RETRY_SECONDS)

    async def settle(self, client: Client) -> None:
        """Send every transfer that was sent alone again, whatever its answer was, until each has a definite answer."""
        singles = {o.request + o.key.encode(): o for o in self._singles}
        for start in range(0, len(singles), 100):
            await asyncio.gather(
                *(
                    self.insist(client, o.key, o.fields["source"], o.fields["destination"], o.fields["amount"])
                    for o in list(singles.values())[start : start + 100]
                )
            )

    async def check(self) -> None:
        """Assert that the books balance and agree with the answers."""
        await check_books(self.database_url)
        await check_history(self.database_url, self.ledger, self.operations)

    def count(self, *verdicts: str) -> int:
        """Return how many operations had one of these verdicts."""
        return sum(verdict(operation.answer) in verdicts for operation in self.operations)

    async def _hear(self, client: Client, path: str, body: bytes, headers: dict[str, str]) -> Answer | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await client.send("POST", path, raw=body, headers=headers)
        except TimeoutError:
            raise AssertionError(f"no answer within {ANSWER_SECONDS} s") from None
        except (aiohttp.ClientError, OSError) as error:
            self.errors.append(error)
            return None
