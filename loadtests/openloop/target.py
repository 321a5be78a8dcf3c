"""What a run needs to be there before it: accounts."""

from urllib.parse import urlsplit

import aiohttp

from loadtests.openloop.workloads import Target

# Accounts opened by one request.
BULK_MAX = 1_000
PREFIX = "load"


class TargetError(Exception):
    """The server is not one that a run can be made against."""


async def prepare(url: str, key: str, accounts: int) -> Target:
    """
    Open the accounts of a run, without floors, unless they are there.

    Raises:
        TargetError: The address is none, or the accounts could not be opened.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise TargetError(f"not an address of the form http://HOST:PORT: {url}")
    names = [f"{PREFIX}:{number}" for number in range(accounts)]
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for start in range(0, accounts, BULK_MAX):
            asked = [{"id": name, "currency": "EUR", "floor": None} for name in names[start : start + BULK_MAX]]
            async with session.post(f"{url.rstrip('/')}/v1/accounts/bulk", json={"accounts": asked}) as response:
                if response.status != 200:
                    raise TargetError(f"accounts cannot be opened: {response.status} {await response.text()}")
                wrong = [item for item in (await response.json())["results"] if item["status"] not in (200, 201)]
                if wrong:
                    raise TargetError(f"an account cannot be opened: {wrong[0]}")
    return Target(parts.hostname, parts.port or 80, key, names)
