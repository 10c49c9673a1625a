"""IP addresses of peers: compared with networks, and grouped to count connections."""

import ipaddress
from collections.abc import Iterable
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_IPV6_PREFIX: Final = 64  # a computer usually has all addresses of such a network


def plain_address(address: str) -> str:
    """The address as IPv4 where it is IPv4 within IPv6.

    Example:
        >>> plain_address("::ffff:10.0.0.5"), plain_address("10.0.0.5")
        ('10.0.0.5', '10.0.0.5')
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def is_in(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address belongs to one of the networks."""
    parsed = ipaddress.ip_address(address)
    return any(parsed in network for network in networks)


def counted_address(address: str) -> str:
    """What connections are counted by: the address, of IPv6 its network of 64 bits.

    Example:
        >>> counted_address("::ffff:10.0.0.5"), counted_address("2001:db8::1:5")
        ('10.0.0.5', '2001:db8::/64')
    """
    plain = plain_address(address)
    if ":" not in plain:
        return plain
    return str(ipaddress.ip_network((plain, _IPV6_PREFIX), strict=False))
