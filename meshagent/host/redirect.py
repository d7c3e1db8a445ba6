"""The rules of transparent capture, as text for nft. Pure: what is to be captured in, rules and their meaning out.

All rules are in one table, which a new one replaces in the same transaction. Whatever could lock somebody out holds only
while the set `armed` has elements, and these may have a timeout: then the kernel itself takes the rules back, with no
process left to do it (measured: docs/adr/0020-capture.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal

from meshagent.model.virtual import VIRTUAL_NETWORKS

TABLE = "inet meshagent"
SSH_PORT = 22
REMOVE = f"table {TABLE}\ndelete table {TABLE}\n"  # the first makes one where there is none: so it never fails
CONFIRM = f"delete element {TABLE} armed {{ ipv4, ipv6 }}\nadd element {TABLE} armed {{ ipv4, ipv6 }}\n"
_IPV4, _IPV6 = VIRTUAL_NETWORKS
_RESET = "reject with tcp reset"
_REFUSE = "reject with icmpx admin-prohibited"


@dataclass(frozen=True, slots=True)
class CapturedService:
    """Whose connections (a user's, or a cgroup's) are led to which port of Envoy; `closed`: its app's port is, too."""

    service: str
    port: int
    uid: int | None = None
    cgroup: str = ""
    closed: tuple[int, ...] = ()

    @property
    def match(self) -> str:
        """Its connections, as nft finds them."""
        return f"meta skuid {self.uid}" if self.uid is not None else _cgroup(self.cgroup)

    @property
    def whose(self) -> str:
        """Whose they are, in words."""
        return f"user {self.uid}" if self.uid is not None else f"cgroup {self.cgroup}"


@dataclass(frozen=True, slots=True)
class Redirection:
    """All that the rules depend on. `exempt`: users whose connections are never touched, Envoy's and the agent's first.

    `ssh_ports`: those of the operator, which are left alone in both directions besides port 22.
    """

    services: tuple[CapturedService, ...]
    exempt: tuple[int, ...]
    egress: Literal["all", "registered"] = "all"
    ports: tuple[int, ...] = ()
    addresses: tuple[IPv4Network | IPv6Network, ...] = ()
    cgroups: tuple[str, ...] = ()
    ssh_ports: tuple[int, ...] = ()

    @property
    def untouched(self) -> tuple[int, ...]:
        """Ports that no rule is about."""
        return tuple(sorted({SSH_PORT, *self.ssh_ports, *self.ports}))

    @property
    def closed(self) -> tuple[int, ...]:
        """Ports of this host that others cannot reach."""
        wanted = {port for each in self.services for port in each.closed}
        return tuple(sorted(wanted - set(self.untouched)))

    @property
    def digest(self) -> str:
        """What tells these rules from others, whoever's session they were made in."""
        return hashlib.sha256(_table(replace(self, ssh_ports=()), "", None).encode()).hexdigest()[:16]

    @property
    def rules(self) -> int:
        """How many rules there are."""
        inner = (line.strip() for line in _table(self, "", None).splitlines() if line.startswith("\t\t"))
        return sum(not line.startswith(("type ", "typeof ", "flags ", "elements ")) for line in inner)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the kernel holds: which rules, how many, and whether they hold. `undo_in`: seconds; None: no timer runs."""

    there: bool = False
    digest: str = ""
    rules: int = 0
    holds: bool = False
    undo_in: int | None = None


def rules(redirection: Redirection, undo_seconds: int | None) -> str:
    """The whole transaction: our table as it is to be, in place of the one before. None: no timer takes it back."""
    return REMOVE + _table(redirection, redirection.digest, undo_seconds)


def meaning(redirection: Redirection) -> Iterator[str]:
    """What the rules do, a sentence each."""
    for each in redirection.services:
        yield f"{each.service}: connections of {each.whose} to virtual addresses go to Envoy, port {each.port}"
    if redirection.closed:
        yield f"closed to other hosts, which have mTLS: {_listed(redirection.closed)}"
    if redirection.egress == "registered":
        yield "whatever else those services begin to send is refused, but to this host itself"
    yield f"virtual addresses ({_IPV4}, {_IPV6}) never leave this host"
    yield f"left alone: users {_listed(redirection.exempt)}, ports {_listed(redirection.untouched)}, what was open before"
    others = [*map(str, redirection.addresses), *(f"cgroup {each}" for each in redirection.cgroups)]
    if others:
        yield f"left alone, as capture in agent.yaml says: {', '.join(others)}"


def standing_of(listing: Mapping[str, Any]) -> Standing:
    """What `nft --json list table` shows."""
    parts = listing.get("nftables", ())
    found = [part["rule"] for part in parts if "rule" in part]
    elements = next((part["set"].get("elem", ()) for part in parts if part.get("set", {}).get("name") == "armed"), ())
    digests = [words[1] for rule in found if len(words := rule.get("comment", "").split()) == 2]
    ends = [each["elem"].get("expires") for each in elements if isinstance(each, dict)]
    left = [int(end) for end in ends if end is not None]
    return Standing(
        there=True,
        digest=digests[0] if digests else "",
        rules=len(found),
        holds=len(elements) > 0,
        undo_in=min(left) if left else None,
    )


def _table(redirection: Redirection, digest: str, undo_seconds: int | None) -> str:
    timeout = "" if undo_seconds is None else f" timeout {undo_seconds}s"
    armed = ["typeof meta nfproto", "flags timeout", f"elements = {{ ipv4{timeout}, ipv6{timeout} }}"]
    jump = "meta nfproto @armed jump"
    mark = f' comment "meshagent {digest}"'
    blocks = [
        ("set armed", armed),
        ("chain captured", _captured(redirection)),
        ("chain going", ["type nat hook output priority -100; policy accept;", f"{jump} captured{mark}"]),
        ("chain refused", _refused(redirection)),
        ("chain leaving", ["type filter hook output priority 0; policy accept;", *_home(), f"{jump} refused"]),
        ("chain closed", _closed(redirection)),
        ("chain arriving", [*_arriving(redirection), f"{jump} closed"]),
    ]
    inner = "".join(
        f"\t{head} {{\n{''.join(f'{chr(9) * 2}{line}{chr(10)}' for line in lines)}\t}}\n" for head, lines in blocks
    )
    return f"table {TABLE} {{\n{inner}}}\n"


def _captured(redirection: Redirection) -> Iterator[str]:
    """The first packet of a connection from here. Cgroups are looked at first: they are the narrower."""
    yield from _exempt(redirection)
    for each in sorted(redirection.services, key=lambda each: (each.uid is not None, each.service)):
        for family, network in (("ip", _IPV4), ("ip6", _IPV6)):
            called = f"{family} daddr {network}"
            yield f'{called} meta l4proto tcp {each.match} redirect to :{each.port} comment "{each.service}"'


def _refused(redirection: Redirection) -> Iterator[str]:
    """What a captured process begins to send elsewhere. Not the answers that it gives, whoever asked and since when.

    TCP is judged by the packet that opens a connection: what was open before this table is new to the kernel's
    tracking too.
    """
    if redirection.egress == "all":
        return
    yield "fib daddr type local return"
    yield from _exempt(redirection)
    yield f"udp dport {_set(redirection.untouched)} return"
    for each in redirection.services:
        yield f"{each.match} tcp flags syn / fin,syn,rst,ack {_RESET}"
        yield f"{each.match} meta l4proto != tcp ct state new {_REFUSE}"


def _exempt(redirection: Redirection) -> Iterator[str]:
    yield f"meta skuid {_set(redirection.exempt)} return"
    for path in redirection.cgroups:
        yield f"{_cgroup(path)} return"
    for family, kind in (("ip", IPv4Network), ("ip6", IPv6Network)):
        if networks := [each for each in redirection.addresses if isinstance(each, kind)]:
            yield f"{family} daddr {_set(networks)} return"
    yield f"tcp dport {_set(redirection.untouched)} return"


def _home() -> Iterator[str]:
    """Virtual addresses mean nothing elsewhere. Of no timer: nobody can be locked out by this."""
    for family, network in (("ip", _IPV4), ("ip6", _IPV6)):
        yield f"{family} daddr {network} meta l4proto tcp {_RESET}"
        yield f"{family} daddr {network} {_REFUSE}"


def _arriving(redirection: Redirection) -> Iterator[str]:
    yield "type filter hook input priority 0; policy accept;"
    yield 'iifname "lo" return'
    yield f"ip daddr {_IPV4} drop"
    yield f"ip6 daddr {_IPV6} drop"
    yield f"tcp dport {_set(each.port for each in redirection.services)} drop"


def _closed(redirection: Redirection) -> Iterator[str]:
    """`ct direction`: not what others answer to a connection that this host made from such a port."""
    if redirection.closed:
        yield f"tcp dport {_set(redirection.closed)} ct direction original {_RESET}"


def _cgroup(path: str) -> str:
    return f'socket cgroupv2 level {path.count("/") + 1} "{path}"'


def _set(values: Iterable[object]) -> str:
    return f"{{ {_listed(values)} }}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
