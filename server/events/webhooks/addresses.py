"""Decides where webhooks may go: a caller must reach nothing by them that the caller could not reach directly."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from yarl import URL

# Characters of a URL: as many as all proxies and logs take.
URL_LENGTH_MAX: Final = 2_048
# Characters of a host name, and of a part of it (RFC 1035).
HOST_LENGTH_MAX: Final = 253
LABEL_LENGTH_MAX: Final = 63

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Visible ASCII without the backslash, which some parsers take for a slash and others do not.
_PLAIN: Final = re.compile(r"[!-\[\]-~]+")
_LABEL: Final = rf"[A-Za-z0-9_](?:[A-Za-z0-9_-]{{0,{LABEL_LENGTH_MAX - 2}}}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Some programs take a host whose last part is a number for an address, however it is written: 2130706433, 0x7f.1,
# 127.1.
_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)")

_AUTHORITY_END: Final = re.compile(r"[/?#]")

# Networks that are not the public internet (IANA's registries of special addresses). In IPv6 nothing outside 2000::/3
# is public, which excludes loopback, link-local and unique local addresses, and mapped or translated IPv4 addresses.
_NOT_PUBLIC_V4: Final = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
            *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
_PUBLIC_V6: Final = IPv6Network("2000::/3")
# 2001::/23 has Teredo, 2002::/16 is 6to4: each of their addresses contains an IPv4 address.
_NOT_PUBLIC_V6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


class Destinations:
    """
    Decides which addresses webhooks may go to.

    Args:
        networks: Networks that are not part of the public internet, but allowed, separated by commas: addresses, or
            networks as 10.0.0.0/8. Only there HTTP without TLS is allowed.

    Raises:
        ValueError: One of them is not valid.
    """

    def __init__(self, networks: str = "") -> None:
        parts = [part.strip() for part in networks.split(",")] if networks.strip() else []
        self._private: list[Network] = [ip_network(part) for part in parts]

    def allows(self, address: Address, *, secure: bool) -> bool:
        """Return whether a connection to an address is allowed, with TLS or without."""
        return any(address in network for network in self._private) or (secure and _is_public(address))

    def check_url(self, text: str) -> None:
        """
        Raise an error if *text* cannot be the URL of a receiver. The addresses of its name are checked at each sending.

        Raises:
            ValueError: It cannot; the message says why.
        """
        if len(text) > URL_LENGTH_MAX:
            raise ValueError(f"A URL has up to {URL_LENGTH_MAX} characters.")
        if not _PLAIN.fullmatch(text):
            raise ValueError("A URL is visible ASCII without a backslash; other characters are escaped.")
        try:
            url = URL(text)
            host, port = url.raw_host or "", url.explicit_port
        except ValueError:
            raise ValueError("This is not a URL.") from None
        if url.scheme not in ("https", "http"):
            raise ValueError("A URL begins with https://.")
        if "@" in _AUTHORITY_END.split(text.partition("://")[2], maxsplit=1)[0]:
            raise ValueError("A URL holds no user and no password.")
        authority = _AUTHORITY_END.split(text.partition("://")[2], maxsplit=1)[0]
        if authority.endswith(":") or ("[" in authority and ":" not in host):
            raise ValueError("This is not a URL.")
        if "#" in text:
            raise ValueError("A URL ends before its fragment.")
        if port == 0:
            raise ValueError("0 is no port.")
        self._check_host(host, secure=url.scheme == "https")

    def _check_host(self, host: str, *, secure: bool) -> None:
        if not secure and not self._private:
            raise ValueError("A URL begins with https://.")
        if (address := literal(host)) is not None:
            if not self.allows(address, secure=secure):
                raise ValueError("Nothing is sent to this address.")
        elif len(host) > HOST_LENGTH_MAX or _NUMBER.fullmatch(host) or not _NAME.fullmatch(host):
            raise ValueError("The host is neither a name nor an address as it is usually written.")


def literal(host: str) -> Address | None:
    """Return the address that the host of a URL is; None if it is a name."""
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
