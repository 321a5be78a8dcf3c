"""Behind trusted proxies, failed authentications count for the address that sent the request."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from server.http.wire.forwarded import HOPS_MAX, TrustedProxies
from server.settings import SettingsError
from tests.support.client import Client
from tests.support.service import NO_REDIS, in_process

SLOW: dict[str, object] = {"auth_failure_rate": "1/day", "auth_failure_burst": 2}
PROXIES = "10.0.0.0/8, 2001:db8:1::/48"


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        pytest.param("192.0.2.7", ["198.51.100.1"], "192.0.2.7", id="a peer that is no proxy is not believed"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="a proxy that says nothing stands for itself"),
        pytest.param("10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="what a proxy says"),
        pytest.param("10.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1", id="what the caller claimed is left"),
        pytest.param("10.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1", id="in a field of its own too"),
        pytest.param("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1", id="through two proxies"),
        pytest.param("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3", id="a caller among the proxies"),
        pytest.param("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1", id="what is no address ends the list"),
        pytest.param("10.0.0.1", ["unknown, 10.0.0.2"], "10.0.0.2", id="and its sender stands for the caller"),
        pytest.param("10.0.0.1", [""], "10.0.0.1", id="an empty field"),
        pytest.param("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1", id="with a port"),
        pytest.param("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7", id="IPv6 with a port"),
        pytest.param("2001:db8:1::1", ["2001:db8::7"], "2001:db8::7", id="IPv6"),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="a proxy's IPv4 address as one of IPv6"),
        pytest.param("", ["198.51.100.1"], "", id="a peer without an address"),
        pytest.param("10.0.0.1", ["198.51.100.1," + "10.0.0.2," * HOPS_MAX + "10.0.0.2"], "10.0.0.2", id="too long"),
    ],
)
def test_who_called(peer: str, forwarded: list[str], caller: str) -> None:
    """The right-most address that is not a trusted proxy counts; an untrusted peer's header is ignored."""
    headers = CIMultiDictProxy(CIMultiDict([("X-Forwarded-For", value) for value in forwarded]))
    assert TrustedProxies(PROXIES).caller(peer, headers) == caller


def test_nobody_is_believed_by_default() -> None:
    """Without the setting, the header has no effect."""
    headers = CIMultiDictProxy(CIMultiDict({"X-Forwarded-For": "198.51.100.1"}))
    assert TrustedProxies("").caller("127.0.0.1", headers) == "127.0.0.1"


@pytest.mark.parametrize(("networks", "warnings"), [("", 1), ("10.0.0.0/8", 1), ("127.0.0.0/8", 0)])
async def test_a_proxy_that_is_not_trusted_is_reported(
    database_url: str, caplog: pytest.LogCaptureFixture, networks: str, warnings: int
) -> None:
    """The first header from a peer that is not trusted is one warning, which names the setting and the peer."""
    async with in_process(database_url, NO_REDIS, trusted_proxies=networks) as service:
        client = await service.client("books")
        for _ in range(2):
            assert (await client.get("/v1/limits", X_Forwarded_For="198.51.100.1")).status == 200
            assert (await Client(service.session, service.url, None).get("/", X_Forwarded_For="secret")).status == 200
    found = [record for record in caplog.records if "X-Forwarded-For" in record.getMessage()]
    assert [(record.levelname, record.__dict__["fields"]) for record in found] == [
        ("WARNING", {"peer": "127.0.0.1"})
    ] * warnings
    assert all("trusted_proxies" in record.getMessage() for record in found)


@pytest.mark.parametrize("networks", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8,,"])
async def test_what_is_no_network_is_refused(database_url: str, networks: str) -> None:
    """The service does not start with an invalid setting."""
    with pytest.raises(SettingsError, match="trusted_proxies"):
        async with in_process(database_url, NO_REDIS, trusted_proxies=networks):
            pass


async def test_failures_count_for_the_caller(database_url: str) -> None:
    """A caller that has used up its failures gets 429; another caller through the same proxy does not."""
    async with in_process(database_url, NO_REDIS, trusted_proxies="127.0.0.1", **SLOW) as service:
        stranger = Client(service.session, service.url, "wrong")

        async def status(forwarded: str) -> int:
            return (await stranger.get("/v1/accounts", X_Forwarded_For=forwarded)).status

        assert [await status("198.51.100.1") for _ in range(3)] == [401, 401, 429]
        assert await status("203.0.113.9, 198.51.100.1") == 429
        assert await status("198.51.100.2") == 401
