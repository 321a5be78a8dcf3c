"""Finds the caller's address behind proxies: X-Forwarded-For, as far as the proxies that wrote it are trusted."""

import logging
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from multidict import CIMultiDictProxy

# The most proxies that one request may pass. Of a longer list only this many entries are read, from the end, because
# callers may have written the others.
HOPS_MAX: Final = 8
# An address with the port that some proxies append: 192.0.2.7:4711 or [2001:db8::7]:4711.
_WITH_PORT: Final = re.compile(r"([0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

Address = IPv4Address | IPv6Address

log = logging.getLogger(__name__)


class TrustedProxies:
    """
    Finds the address of a caller behind trusted proxies.

    Args:
        networks: The addresses of the trusted proxies, or networks like 10.0.0.0/8, separated by commas.

    Raises:
        ValueError: An entry is neither an address nor a network.
    """

    def __init__(self, networks: str) -> None:
        parts = [part.strip() for part in networks.split(",")] if networks.strip() else []
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(part) for part in parts]
        self._warned = False

    def caller(self, peer: str, headers: "CIMultiDictProxy[str]") -> str:
        """
        Return the address of the caller that sent a request.

        Each proxy appends the address that the request came from, and a caller may begin the list with anything. So the
        list is read from its end for as long as its entries are trusted proxies. The first other address is the
        caller's. The first list of a peer that is not trusted is logged: if it is a proxy, callers share its limits.

        Args:
            peer: The address at the other end of the connection; empty if it has none.
        """
        if "X-Forwarded-For" not in headers:
            return peer
        if not self._trusts(_address(peer)):
            self._warn(peer)
            return peer
        caller = peer
        for hop in reversed(",".join(headers.getall("X-Forwarded-For")).rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
            address = _address(hop.strip())
            if address is None:
                # The last trusted proxy did not say where the request came from.
                break
            caller = str(address)
            if not self._trusts(address):
                break
        return caller

    def _warn(self, peer: str) -> None:
        # Once: it may be a proxy of the operator, or a caller who sends what it likes.
        if peer and not self._warned:
            self._warned = True
            log.warning(
                "a peer that trusted_proxies does not name sends X-Forwarded-For, which is ignored: "
                "if it is your balancer, all its callers share auth_failure_rate and anonymous_rate",
                extra={"fields": {"peer": peer}},
            )

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """Return the address in *text*, with or without a port; an IPv4 address in IPv6 notation becomes IPv4."""
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address(match[1].strip("[]") if match else text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
