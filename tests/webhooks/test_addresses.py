"""Which URLs and addresses webhooks may use, with allowed private networks and without."""

from ipaddress import ip_address

import pytest

from server.events.webhooks.addresses import URL_LENGTH_MAX, Destinations

PUBLIC = Destinations()
PRIVATE = Destinations("10.0.0.0/8, 192.168.7.7, fd00::/8")
NO_HTTPS, NO_HOST, NOTHING_SENT = "A URL begins with https://.", "The host is neither", "Nothing is sent"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hooks?token=%20x&y=1",
        "https://example.com:8443/a",
        "https://xn--bcher-kva.example/",
        "https://a_b.example-c.com/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:444/",
        "HTTPS://EXAMPLE.COM/",
        "https://10.example.com/",
        "https://example.com/@me",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    """Names and public addresses are accepted, with any port, path and query."""
    PUBLIC.check_url(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("https://example.com/" + "x" * URL_LENGTH_MAX, "A URL has up to", id="too long"),
        pytest.param("https://exa mple.com/", "A URL is visible ASCII", id="a blank"),
        pytest.param("https://bücher.example/", "A URL is visible ASCII", id="no ASCII"),
        pytest.param("https://example.com\\@10.0.0.1/", "A URL is visible ASCII", id="a backslash"),
        pytest.param("https://example.com/\r\nX: y", "A URL is visible ASCII", id="a line break"),
        pytest.param("https://example.com:99999/", "This is not a URL.", id="a port past all"),
        pytest.param("https://[::1/", "This is not a URL.", id="half a bracket"),
        pytest.param("ftp://example.com/", NO_HTTPS, id="another scheme"),
        pytest.param("//example.com/", NO_HTTPS, id="no scheme"),
        pytest.param("http://example.com/", NO_HTTPS, id="no TLS"),
        pytest.param("http://8.8.8.8/", NO_HTTPS, id="no TLS to an address"),
        pytest.param("https://user@example.com/", "A URL holds no user", id="a user"),
        pytest.param("https://user:pass@example.com/", "A URL holds no user", id="a password"),
        pytest.param("https://@example.com/", "A URL holds no user", id="an empty user"),
        pytest.param("https://example.com/#x", "A URL ends before", id="a fragment"),
        pytest.param("https://example.com:0/", "0 is no port", id="port 0"),
        pytest.param("https:///path", NO_HOST, id="no host"),
        pytest.param("https://2130706433/", NO_HOST, id="decimal"),
        pytest.param("https://0x7f000001/", NO_HOST, id="hexadecimal"),
        pytest.param("https://0177.0.0.1/", NO_HOST, id="octal"),
        pytest.param("https://127.1/", NO_HOST, id="short"),
        pytest.param("https://0x7f.1/", NO_HOST, id="mixed"),
        pytest.param("https://127.0.0.1./", NO_HOST, id="a point behind it"),
        pytest.param("https://example.1/", NO_HOST, id="a number at the end"),
        pytest.param("https://[fe80::1%25eth0]/", NO_HOST, id="a scope"),
        pytest.param("https://exam%70le.com/", NO_HOST, id="escapes"),
        pytest.param("https://example..com/", NO_HOST, id="an empty part"),
        pytest.param("https://127.0.0.1/", NOTHING_SENT, id="loopback"),
        pytest.param("https://169.254.169.254/latest/", NOTHING_SENT, id="metadata"),
        pytest.param("https://[::ffff:127.0.0.1]/", NOTHING_SENT, id="mapped"),
        pytest.param("https://192.168.7.7/", NOTHING_SENT, id="private"),
    ],
)
def test_urls_that_are_refused(url: str, reason: str) -> None:
    """Each refusal says what is wrong with the URL."""
    with pytest.raises(ValueError, match=reason):
        PUBLIC.check_url(url)


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("http://10.1.2.3/", True),
        ("https://192.168.7.7/", True),
        ("http://[fd00::7]/", True),
        ("http://internal.example/", True),
        ("https://8.8.8.8/", True),
        ("http://8.8.8.8/", False),
        ("https://192.168.7.8/", False),
        ("http://127.0.0.1/", False),
    ],
)
def test_urls_of_allowed_networks(url: str, taken: bool) -> None:
    """Addresses in an allowed network are accepted, without TLS too; a name is checked when it is resolved."""
    if taken:
        PRIVATE.check_url(url)
    else:
        with pytest.raises(ValueError, match=NOTHING_SENT):
            PRIVATE.check_url(url)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1")),
        *((address, True) for address in ("192.0.1.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1")),
        *((address, False) for address in ("0.0.0.1", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.9.9.9")),
        *((address, False) for address in ("169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255")),
        *((address, False) for address in ("192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1")),
        *((address, False) for address in ("198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1")),
        *((address, False) for address in ("240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:8.8.8.8")),
        *(
            (address, False)
            for address in ("64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:808:808::")
        ),
        *((address, False) for address in ("2001:20::1", "2001:db8::1", "2002:808:808::1", "3fff::1", "5f00::1")),
        *((address, False) for address in ("fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1")),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    """Public addresses are allowed with TLS, and no address without it."""
    assert PUBLIC.allows(ip_address(address), secure=True) is public
    assert PUBLIC.allows(ip_address(address), secure=False) is False


@pytest.mark.parametrize("networks", ["10.0.0.0/33", "example.com", "10.0.0.1/8", ",", "10.0.0.0/8,"])
def test_networks_that_are_none(networks: str) -> None:
    """A list with an invalid network is refused as a whole."""
    with pytest.raises(ValueError):  # noqa: PT011 -- the standard library's words
        Destinations(networks)
