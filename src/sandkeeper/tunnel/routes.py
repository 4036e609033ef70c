"""Which routes a tunnel needs. Pure functions.

The machine's default routes are never touched: the two halves of the address space are more
specific and win, also over a default that appears later, and they vanish with the interface. So
there is no moment without a default route, whatever fails.
"""

import ipaddress
from collections.abc import Sequence

from sandkeeper.tunnel.config import Network, TunnelConfig

__all__ = ["blocked_networks", "covers", "tunnel_networks"]

HALVES: dict[int, tuple[Network, ...]] = {
    4: (ipaddress.ip_network("0.0.0.0/1"), ipaddress.ip_network("128.0.0.0/1")),
    6: (ipaddress.ip_network("::/1"), ipaddress.ip_network("8000::/1")),
}


def tunnel_networks(config: TunnelConfig) -> list[Network]:
    """Return what goes through the tunnel: the allowed networks, everything only if asked for."""
    found = [network for network in config.allowed_ips if network.prefixlen]
    if config.route_all:
        for version in sorted(_versions(config)):
            found += HALVES[version]
    return list(dict.fromkeys(found))


def blocked_networks(config: TunnelConfig) -> list[Network]:
    """Return what must not leave at all: with `route_all`, the family the tunnel cannot carry."""
    if not config.route_all:
        return []
    return [network for version in {4, 6} - _versions(config) for network in HALVES[version]]


def _versions(config: TunnelConfig) -> set[int]:
    return {config.local_ip.version, *(network.version for network in config.allowed_ips)}


def covers(networks: Sequence[Network], address: str) -> bool:
    """Say whether an address lies in one of the networks."""
    wanted = ipaddress.ip_address(address)
    return any(wanted in network for network in networks)
