"""What of a listing counts. Pure. The catalog is written by every host, so it is not believed in everything."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from meshagent.catalog.base import Listing
from meshagent.model.service import Instance


def usable(listing: Listing, here: str) -> Listing:
    """The listing without instances whose address leads a host at `here` elsewhere than to the instance's host."""
    kept: list[Instance] = []
    problems = dict(listing.problems)
    for each in listing.instances:
        if here and (problem := _misleading(each.address, here)):
            problems[f"catalog/{each.service}/{each.host}/{each.id}"] = f"{problem}: this instance is not called"
        else:
            kept.append(each)
    return (
        listing if len(kept) == len(listing.instances) else replace(listing, instances=tuple(kept), problems=problems)
    )


def shrinks(before: tuple[Instance, ...], now: tuple[Instance, ...]) -> bool:
    """Whether an instance that was there is not there any more."""
    return bool({_place(each) for each in before} - {_place(each) for each in now})


def doubted(before: tuple[Instance, ...], now: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """What to go by while a catalog that was away may have forgotten what lives: nothing that was callable goes.

    What is new counts, and so does what is better than it was.
    """
    passing = {_place(each): each for each in before if each.health == "passing"}
    told = {_place(each): each for each in now}
    for place, each in passing.items():
        if place not in told or told[place].health != "passing":
            told[place] = each
    return tuple(told[place] for place in sorted(told))


def _place(instance: Instance) -> tuple[str, str, str, int]:
    return (instance.host, instance.id, instance.address, instance.port)


def _misleading(address: str, here: str) -> str:
    """What is wrong with the address of an instance elsewhere: whoever may register must not lead callers to themselves."""
    theirs, own = _unmapped(address), _unmapped(here)
    if theirs.is_loopback and not own.is_loopback:
        return f"its address {address} is every host's own"
    if theirs.is_link_local and not own.is_link_local:
        return f"its address {address} belongs to the link (where clouds keep their credentials)"
    return ""


def _unmapped(text: str) -> IPv4Address | IPv6Address:
    """The address, and of an IPv4 address in IPv6's clothes the former."""
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
