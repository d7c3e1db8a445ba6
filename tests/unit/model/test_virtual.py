"""Virtual addresses: the same everywhere, forever; collisions are found."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.names import SERVICE_NAME_PATTERN
from meshagent.model.virtual import VIRTUAL_NETWORKS, sharing_an_address, virtual_addresses

TWINS = ("service-12694", "service-5771")  # found by search: both are 251.23.70.55
names = st.from_regex(SERVICE_NAME_PATTERN, fullmatch=True)


@given(names)
def test_every_name_has_an_address_of_each_kind_inside_the_networks(name: str) -> None:
    for address, network in zip(virtual_addresses(name), VIRTUAL_NETWORKS, strict=True):
        assert address in network
        assert address not in (network[0], network[-1])


def test_addresses_never_change_since_applications_and_rules_hold_them() -> None:
    assert virtual_addresses("payments") == (
        IPv4Address("251.23.141.14"),
        IPv6Address("fda4:dd8:6e82:0:add1:6607:e97e:6f9a"),
    )


def test_names_that_share_an_address_are_told() -> None:
    assert sharing_an_address(["web", TWINS[1], "api", TWINS[0], "web"]) == (TWINS,)
    assert virtual_addresses(TWINS[0])[1] != virtual_addresses(TWINS[1])[1]


def test_a_host_with_many_upstreams_has_no_names_that_share_one() -> None:
    assert sharing_an_address(f"upstream-{number}" for number in range(200)) == ()


def test_the_networks_are_none_that_another_mesh_gives_out() -> None:
    ipv4, ipv6 = VIRTUAL_NETWORKS
    assert ipv4.subnet_of(ip_network("240.0.0.0/4"))
    for other in ("240.0.0.0/8", "241.0.0.0/8", "255.0.0.0/8"):
        assert not ipv4.overlaps(ip_network(other)), other
    assert ipv6.subnet_of(ip_network("fd00::/8"))
