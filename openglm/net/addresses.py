"""Which addresses are public. Python's `is_global` alone counts some that lead inside (tunnels, multicast)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

_V6 = ipaddress.ip_network("2000::/3")  # all that is assigned for unicast
# Special blocks, tunnels with an IPv4 address inside, and documentation (RFC 6890, RFC 9637, RFC 7526).
_NOT = [
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return is_public(str(ip.ipv4_mapped))
        if ip not in _V6:
            return False
    return (
        ip.is_global and not ip.is_multicast and not any(ip in block for block in _NOT if block.version == ip.version)
    )


async def addresses_of(host: str, port: int) -> list[str]:
    """All addresses of a name, in the system's order; of an address in any spelling, itself. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))
