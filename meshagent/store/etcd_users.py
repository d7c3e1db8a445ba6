"""Users of etcd: a role of its own for each part of the mesh, kept exact, and a new user with a random password."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from meshagent.store.access import Access
from meshagent.store.credentials import Credential, Rights
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd import Etcd, open_etcd
from meshagent.wire.etcd_calls import ROLE_ADD, ROLE_GET, ROLE_GRANT, ROLE_REVOKE, USER_ADD, USER_GRANT, RoleUnknown

Place = tuple[bytes, bytes]  # a key and the end of its range, as etcd has them
_PASSWORD_BYTES = 32


async def make_user(url: str, access: Access, rights: Rights) -> Credential | None:
    """A new user of a role that reaches `rights.places` and nothing else; None where authentication is off.

    Each has a name of its own: an agent that runs keeps its user until it is given the new one. Raises StoreDenied,
    StoreUnavailable.
    """
    etcd = open_etcd(url, access)
    try:
        await etcd.sign_in()
        if not access.username or etcd.auth_off:
            return None
        await _set_role(etcd, rights)
        name, password = f"{rights.name}-{secrets.token_hex(4)}", secrets.token_urlsafe(_PASSWORD_BYTES)
        await etcd.call(USER_ADD, pb.AuthUserAddRequest(name=name, password=password))
        await etcd.call(USER_GRANT, pb.AuthUserGrantRoleRequest(user=name, role=rights.name))
        return Credential(username=name, password=password)
    finally:
        await etcd.close()


async def _set_role(etcd: Etcd, rights: Rights) -> None:
    """New rights first, so that a holder at work never lacks one that it keeps."""
    wanted = permissions(rights.places)
    held: tuple[pb.Permission, ...] = ()
    try:
        held = tuple((await etcd.call(ROLE_GET, pb.AuthRoleGetRequest(role=rights.name))).perm)
    except RoleUnknown:
        await etcd.call(ROLE_ADD, pb.AuthRoleAddRequest(name=rights.name))
    for permission in wanted.values():
        await etcd.call(ROLE_GRANT, pb.AuthRoleGrantPermissionRequest(name=rights.name, perm=permission))
    for each in held:
        if (each.key, each.range_end) not in wanted:
            stale = pb.AuthRoleRevokePermissionRequest(role=rights.name, key=each.key, range_end=each.range_end)
            await etcd.call(ROLE_REVOKE, stale)


def permissions(places: Iterable[tuple[str, bool]]) -> dict[Place, pb.Permission]:
    """etcd's permissions for places: one that ends in `/` is everything below it."""
    found: dict[Place, pb.Permission] = {}
    for place, write in places:
        key = place.encode()
        end = key[:-1] + bytes([key[-1] + 1]) if place.endswith("/") else b""
        kind = pb.Permission.READWRITE if write else pb.Permission.READ
        found[key, end] = pb.Permission(permType=kind, key=key, range_end=end)
    return found
