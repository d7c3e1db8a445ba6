"""Virtual addresses: what stands for a service where an application wants an address. No host coordinates them.

They are a hash of the service's name, so every host knows them without asking, and they outlive restarts, moves and
the store. The IPv4 network is a part of 240.0.0.0/4 that neither Consul (from 240.0.0.1 on), Istio (240.240.0.0/16)
nor Kuma (241.0.0.0/8) gives out and that is clear of 255.0.0.0/8; the IPv6 one is a /64 of a unique local prefix
(RFC 4193, 3.2). Two names may share the IPv4 address: docs/adr/0019-virtual-addresses.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

VIRTUAL_NETWORKS = (IPv4Network("248.0.0.0/6"), IPv6Network("fda4:dd8:6e82::/64"))


def virtual_addresses(service: str) -> tuple[IPv4Address, IPv6Address]:
    """The addresses that stand for the service of this name on every host, in `VIRTUAL_NETWORKS`, never their ends."""
    digest = hashlib.sha256(b"meshagent virtual address\0" + service.encode()).digest()
    ipv4, ipv6 = VIRTUAL_NETWORKS
    return (
        ipv4[1 + int.from_bytes(digest[:16]) % (ipv4.num_addresses - 2)],
        ipv6[1 + int.from_bytes(digest[16:]) % (ipv6.num_addresses - 2)],
    )


def reverse_zones() -> tuple[str, ...]:
    """The zones under in-addr.arpa and ip6.arpa that the virtual networks are."""
    ipv4, ipv6 = VIRTUAL_NETWORKS
    octets = (subnet.network_address.packed[0] for subnet in ipv4.subnets(new_prefix=8))
    nibbles = ipv6.network_address.exploded.replace(":", "")[: ipv6.prefixlen // 4]
    return (*(f"{octet}.in-addr.arpa" for octet in octets), f"{'.'.join(reversed(nibbles))}.ip6.arpa")


def sharing_an_address(services: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of these names (the lesser first, sorted) of which both would get the same virtual address."""
    owners: dict[IPv4Address | IPv6Address, str] = {}
    pairs = set()
    for service in sorted(set(services)):
        for address in virtual_addresses(service):
            owner = owners.setdefault(address, service)
            if owner != service:
                pairs.add((owner, service))
    return tuple(sorted(pairs))
