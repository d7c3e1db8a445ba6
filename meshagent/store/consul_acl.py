"""Tokens of Consul's ACL system: a policy of its own for each part of the mesh, kept exact, and a new token for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from meshagent.errors import StoreDenied
from meshagent.store.access import Access
from meshagent.store.credentials import Credential, Rights
from meshagent.wire.consul import Consul, open_consul
from meshagent.wire.consul_url import parse_url

_OFF = 401  # "ACL support disabled", measured on 1.8.7
_LOOPBACK = ("127.", "localhost", "[::1]")


async def make_token(url: str, access: Access, rights: Rights) -> Credential | None:
    """A new token that may do what `rights.rules` say; None where ACLs are off. Raises StoreDenied, StoreUnavailable."""
    async with _opened(url, access) as consul:
        policies = await consul.get("/v1/acl/policies")
        if policies.status == _OFF:
            return None
        known = {each["Name"]: each["ID"] for each in policies.json() or ()}
        policy = {"Name": rights.name, "Description": "Made by meshagent.", "Rules": rights.rules}
        if found := known.get(rights.name):
            await consul.put(f"/v1/acl/policy/{quote(found)}", body={**policy, "ID": found})
        else:
            await consul.put("/v1/acl/policy", body=policy)
        asked = {"Description": rights.name, "Policies": [{"Name": rights.name}]}
        made = (await consul.put("/v1/acl/token", body=asked)).json()
        secret = made.get("SecretID", "") if isinstance(made, dict) else ""
        if not secret:
            raise StoreDenied("Consul made no token.", next_step="see Consul's log")
        return Credential(token=str(secret))


async def consul_nodes(url: str, access: Access) -> tuple[str, ...]:
    """What Consul calls the machines whose agents the URL names.

    Empty where it names a loopback address: there each host has a Consul agent of its own, whose name is the host's.
    Raises StoreDenied, StoreUnavailable.
    """
    address = parse_url(url, tls=access.tls)
    if any(each.partition("://")[2].startswith(_LOOPBACK) for each in address.urls):
        return ()
    names: list[str] = []
    query = url.partition("?")[2]
    for each in address.agents:
        async with _opened(f"consul://{each}?{query}", access) as consul:
            told = (await consul.get("/v1/agent/self")).json()
            names.append(str(told["Config"]["NodeName"]))
    return tuple(dict.fromkeys(names))


@asynccontextmanager
async def _opened(url: str, access: Access) -> AsyncIterator[Consul]:
    consul = open_consul(url, access)
    try:
        yield consul
    finally:
        await consul.close()
