"""The least rights in the store that each part of a mesh needs, as values, Consul ACL rules and etcd commands. Pure.

Places that end in `/` are everything below them, others are one key: without the slash, Consul and etcd both would let
vm-1 write what is vm-10's (measured, and tested against the real servers in tests/conformance/test_rights.py). A name
that ends in `*` is every name that begins so: for hosts that come and go, such as allocations of Nomad.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from meshagent.state.keys import Keys

Role = Literal["agent", "operator", "authority"]
ROLES: tuple[Role, ...] = ("agent", "operator", "authority")
SIDECAR = "-sidecar-proxy"  # what Consul calls the proxy of a service


@dataclass(frozen=True, slots=True)
class Right:
    """Reading a place in the store, or reading and writing it."""

    place: str
    write: bool = False


@dataclass(frozen=True, slots=True)
class Grantee:
    """Who is given rights. An agent is one on a host, for these services; `node` is what Consul calls that machine.

    `host` and `node` may end in `*`.
    """

    role: Role
    host: str = ""
    services: tuple[str, ...] = ()
    node: str = ""

    @property
    def name(self) -> str:
        """What the policy or role is called."""
        host = self.host.rstrip("*-")
        return f"meshagent-{self.role}{f'-{host}' if host else ''}"


def key_rights(grantee: Grantee, keys: Keys) -> tuple[Right, ...]:
    """What it needs of keys that every store has."""
    if grantee.role == "agent":
        own = Right(keys.config), Right(keys.bundle), Right(keys.report(grantee.host), write=True)
        return (
            *own,
            Right(keys.rollouts),
            *_rollout_rights(grantee, keys),
            Right(keys.answers),
            *_answers(grantee, keys),
        )
    if grantee.role == "operator":
        enrolment = Right(keys.signers), Right(keys.tokens, write=True), Right(keys.grants, write=True)
        return Right(keys.config, write=True), Right(keys.bundle), Right(keys.reports), Right(keys.rollouts), *enrolment
    # `ca rotate` asks the reports who has which roots.
    roots = Right(keys.bundle, write=True), Right(keys.authority, write=True), Right(keys.reports)
    return Right(keys.manifest), Right(keys.mesh), *roots


def _rollout_rights(grantee: Grantee, keys: Keys) -> Iterator[Right]:
    """How far the rollouts of its own services have come, and what it has measured of them."""
    for service in grantee.services:
        yield Right(keys.progress(service), write=True)
        yield Right(keys.measured(service, grantee.host), write=True)


def _answers(grantee: Grantee, keys: Keys) -> Iterator[Right]:
    """What the gateways among its services are to answer a CA that certifies this host's keys."""
    return (Right(keys.answer(service, grantee.host), write=True) for service in grantee.services)


def catalog_rights(grantee: Grantee, keys: Keys) -> tuple[Right, ...]:
    """What it needs of the catalog, where that is kept in keys (etcd)."""
    if grantee.role == "authority":
        return ()
    below = "" if grantee.host.endswith("*") else "/"
    own = (f"{keys.instances_of(service)}{grantee.host}{below}" for service in grantee.services)
    return Right(keys.instances), *(Right(place, write=True) for place in own)


def consul_rules(grantee: Grantee, keys: Keys) -> str:
    """The rules of a Consul ACL policy. Services are in Consul's own catalog."""
    lines = [
        _rule("key_prefix" if right.place.endswith("/") else "key", right.place, write=right.write)
        for right in key_rights(grantee, keys)
    ]
    if grantee.role != "authority":
        lines += [_rule("service_prefix", ""), _rule("node_prefix", "")]
    if grantee.role == "agent":
        names = (name for service in grantee.services for name in (service, service + SIDECAR))
        lines += [_rule("service", name, write=True) for name in names]
        lines += [_rule("agent", grantee.node), _rule("session", grantee.node, write=True)]
    use = f"consul acl policy create -name {grantee.name} -rules @FILE"
    return "\n".join([f"# {_title(grantee)}: {use}", *lines])


def etcd_commands(grantee: Grantee, keys: Keys) -> str:
    """The etcdctl commands that make the role."""
    rights = (*key_rights(grantee, keys), *catalog_rights(grantee, keys))
    return "\n".join(
        [
            f"# {_title(grantee)}: then etcdctl user grant-role USER {grantee.name}",
            f"etcdctl role add {quote(grantee.name)}",
            *(_grant(grantee.name, right) for right in rights),
        ]
    )


def _rule(resource: str, place: str, *, write: bool = False) -> str:
    if place.endswith("*"):
        resource, place = f"{resource}_prefix", place.removesuffix("*")
    return f'{resource} {json.dumps(place)} {{ policy = "{"write" if write else "read"}" }}'


def _grant(role: str, right: Right) -> str:
    below = "--prefix=true " if right.place.endswith(("/", "*")) else ""
    kind = "readwrite" if right.write else "read"
    return f"etcdctl role grant-permission {below}{quote(role)} {kind} {quote(right.place.removesuffix('*'))}"


def _title(grantee: Grantee) -> str:
    if grantee.role != "agent":
        return f"meshagent {grantee.role}"
    return f"meshagent agent on {grantee.host} for {_words(grantee.services)}"


def _words(services: Iterable[str]) -> str:
    return ", ".join(services)
