"""The least credential in the store for one part of the mesh, and the form in which one travels sealed to its host."""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

from meshagent.errors import UsageProblem
from meshagent.model.names import Model
from meshagent.state.keys import Keys
from meshagent.state.rights import Grantee, catalog_rights, consul_rules, key_rights
from meshagent.store.access import Access
from meshagent.store.credentials import Credential, Rights, make_credential


class _Carried(Model):
    token: str = ""
    username: str = ""
    password: str = ""


async def least_credential(url: str, access: Access, grantee: Grantee, keys: Keys) -> Credential | None:
    """A new credential with the rights of `grantee` and no other; None where the store needs none.

    `access`: whose right to make it is used. Raises StoreDenied when it has none, StoreUnavailable, UsageProblem.
    """
    return await make_credential(url, access, rights_of(grantee, keys, await _nodes(url, access, grantee)))


def rights_of(grantee: Grantee, keys: Keys, nodes: tuple[str, ...]) -> Rights:
    """What it may do, as Consul and etcd are told. `nodes`: what Consul calls the machines whose agents it talks to."""
    texts = [consul_rules(replace(grantee, node=node), keys) for node in nodes or (grantee.node,)]
    lines = dict.fromkeys(line for text in texts for line in text.splitlines() if not line.startswith("#"))
    places = (*key_rights(grantee, keys), *catalog_rights(grantee, keys))
    return Rights(grantee.name, "\n".join(lines), tuple((each.place, each.write) for each in places))


def packed(credential: Credential) -> bytes:
    """The credential as it is sealed."""
    carried = _Carried(token=credential.token, username=credential.username, password=credential.password)
    return carried.model_dump_json(exclude_defaults=True).encode()


def unpacked(data: bytes) -> Credential:
    """What `packed` made. Raises UsageProblem for anything else; its words are not repeated."""
    try:
        carried = _Carried.model_validate_json(data)
    except ValidationError:
        raise UsageProblem(
            "the store credential that came with the join token cannot be read", next_step="make a new join line"
        ) from None
    return Credential(carried.token, carried.username, carried.password)


async def _nodes(url: str, access: Access, grantee: Grantee) -> tuple[str, ...]:
    """Sessions hang on a Consul node: that of the agent which is asked, where several hosts ask the same one."""
    if not url.startswith("consul:") or grantee.role != "agent" or grantee.node:
        return ()
    from meshagent.store.consul_acl import consul_nodes

    return await consul_nodes(url, access) or (grantee.host,)
