"""Whose request it is when it comes through a proxy: X-Forwarded-For, as far as those who wrote it are trusted."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from multidict import CIMultiDictProxy

# Proxies that one request passes on its way at most. A longer list was not written by them alone, and is read so far.
HOPS_MAX: Final = 8
# An address with the port that some proxies append: 192.0.2.7:4711 or [2001:db8::7]:4711.
_WITH_PORT: Final = re.compile(r"([0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

Address = IPv4Address | IPv6Address


class TrustedProxies:
    """
    Tells the address of a caller from those of the proxies in between.

    Args:
        networks: Of the proxies that are believed, separated by commas: addresses, or networks as 10.0.0.0/8.

    Raises:
        ValueError: One of them is none.
    """

    def __init__(self, networks: str) -> None:
        parts = [part.strip() for part in networks.split(",")] if networks.strip() else []
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(part) for part in parts]

    def caller(self, peer: str, headers: "CIMultiDictProxy[str]") -> str:
        """
        Return the address of whoever sent a request.

        Each proxy appends the address it was sent the request from, and a caller may have begun the list with
        anything. So it is read from its end, for as long as what stands there is a proxy that is believed; the first
        other address is the caller's.

        Args:
            peer: The other end of the connection; empty where it has no address.
        """
        if not self._networks or "X-Forwarded-For" not in headers or not self._trusts(_address(peer)):
            return peer
        caller = peer
        for hop in reversed(",".join(headers.getall("X-Forwarded-For")).rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
            address = _address(hop.strip())
            if address is None:
                # The last one to be believed did not say where it came from.
                break
            caller = str(address)
            if not self._trusts(address):
                break
        return caller

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """Return the address that *text* is, with a port or without; an IPv4 address written as one of IPv6 is itself."""
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address(match[1].strip("[]") if match else text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
