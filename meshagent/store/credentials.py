"""A credential of its own in the store's server, for one part of the mesh: what is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meshagent.errors import StoreDenied, UsageProblem
from meshagent.store.access import Access


@dataclass(frozen=True, slots=True)
class Credential:
    """What its holder shows to the store: a token to Consul, a user and password to etcd."""

    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a credential may do. `rules` is a Consul ACL policy; `places` are keys and trees of etcd, with or without writing."""

    name: str
    rules: str
    places: Sequence[tuple[str, bool]]


async def make_credential(url: str, access: Access, rights: Rights) -> Credential | None:
    """A new credential with exactly these rights; None where the server gives access without any (ACLs or auth are off).

    `access` is whose right to make one is used. Raises StoreDenied when it has none, StoreUnavailable, UsageProblem.
    """
    kind = url.partition(":")[0]
    try:
        if kind == "consul":
            from meshagent.store.consul_acl import make_token

            return await make_token(url, access, rights)
        if kind == "etcd":
            from meshagent.store.etcd_users import make_user

            return await make_user(url, access, rights)
    except StoreDenied as error:
        raise StoreDenied(
            f"no credential for {rights.name} could be made: {error}",
            next_step="use a credential that may make others (Consul: acl = write, etcd: root),"
            " or make it by hand (--without-credential) and name its file to `meshagent join --store-token-file`",
        ) from None
    if kind == "sqlite":
        return None
    raise UsageProblem(f"a store of kind {kind} has no credentials", next_step="name a Consul or an etcd")
