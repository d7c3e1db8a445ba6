"""Credentials that are made for a part of the mesh, on a real Consul and a real etcd: enough, and nothing more."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest

from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.state.credentials import least_credential
from meshagent.state.keys import Keys
from meshagent.state.rights import Grantee
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Put
from meshagent.store.credentials import Credential
from tests.servers import consul, etcd

pytestmark = pytest.mark.conformance

KEYS = Keys()
AGENT = Grantee("agent", "vm-1", ("payments",))


def secret(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


async def may(url: str, access: Access, key: str, *, write: bool) -> bool:
    """Whether the store lets the holder do it."""
    store = await open_store(url, access)
    try:
        if write:
            await store.commit([Put(key, b"{}")])
        else:
            await store.read(key)
    except StoreDenied:
        return False
    finally:
        await store.close()
    return True


async def checked(url: str, access: Access) -> None:
    assert await may(url, access, KEYS.report("vm-1"), write=True)
    assert await may(url, access, KEYS.config, write=False)
    for key in (KEYS.report("vm-10"), KEYS.mesh, KEYS.bundle, "elsewhere/secret"):
        assert not await may(url, access, key, write=True), key


async def test_a_consul_token_is_made_with_the_rights_of_its_host_and_a_session_on_the_node_that_is_asked(
    guarded_consul_servers, tmp_path
):
    root = Access(token_file=secret(tmp_path / "root", guarded_consul_servers.token))
    made = await least_credential(guarded_consul_servers.url, root, AGENT, KEYS)
    assert made and made.token and made.token not in repr(made)
    access = Access(token_file=secret(tmp_path / "agent", made.token))
    await checked(guarded_consul_servers.url, access)
    # The URL names 127.0.0.1: each host is taken to have a Consul agent of its own name, so n0 is not this one's node.
    with pytest.raises(urllib.error.HTTPError):
        guarded_consul_servers.call("PUT", "/v1/session/create", {"Node": "n0", "TTL": "10s"}, token=made.token)
    here = await least_credential(guarded_consul_servers.url, root, Grantee("agent", "vm-1", ("payments",), "n0"), KEYS)
    assert here and guarded_consul_servers.call(
        "PUT", "/v1/session/create", {"Node": "n0", "TTL": "10s"}, token=here.token
    )


async def test_a_second_token_of_a_host_has_the_rights_of_its_new_services_and_the_first_goes_on(
    guarded_consul_servers, tmp_path
):
    root = Access(token_file=secret(tmp_path / "root", guarded_consul_servers.token))
    first = await least_credential(guarded_consul_servers.url, root, Grantee("agent", "vm-2", ("web",), "n0"), KEYS)
    second = await least_credential(guarded_consul_servers.url, root, Grantee("agent", "vm-2", ("batch",), "n0"), KEYS)
    assert first and second and first != second
    for token in (first.token, second.token):
        guarded_consul_servers.call("PUT", "/v1/agent/service/register", {"Name": "batch", "Port": 1}, token=token)
        with pytest.raises(urllib.error.HTTPError):
            guarded_consul_servers.call("PUT", "/v1/agent/service/register", {"Name": "web", "Port": 1}, token=token)


async def test_who_may_not_make_tokens_is_told_what_to_do(guarded_consul_servers, tmp_path):
    agent = Access(
        token_file=secret(
            tmp_path / "agent", guarded_consul_servers.policy_token('key_prefix "x" { policy = "write" }')
        )
    )
    with pytest.raises(StoreDenied, match="no credential for meshagent-agent-vm-1") as told:
        await least_credential(guarded_consul_servers.url, agent, AGENT, KEYS)
    assert "--store-token-file" in told.value.next_step


async def test_without_acls_no_credential_is_needed(consul_servers, etcd_servers, tmp_path):
    assert await least_credential(consul_servers.url, Access(), AGENT, KEYS) is None
    assert await least_credential(etcd_servers.url, Access(), AGENT, KEYS) is None
    assert await least_credential(f"sqlite://{tmp_path}/mesh.db", Access(), AGENT, KEYS) is None


async def test_an_etcd_user_is_made_with_the_rights_of_its_host(tmp_path):
    with etcd.servers(guarded=True) as running:
        root = Access(username="root", password_file=secret(tmp_path / "root", etcd.ROOT_PASSWORD))
        first, second = [await least_credential(running.url, root, AGENT, KEYS) for _ in range(2)]
        assert first and second and first.username != second.username

        def access(made: Credential) -> Access:
            return Access(username=made.username, password_file=secret(tmp_path / made.username, made.password))

        for made in (first, second):
            assert len(made.password) > 40 and made.password not in repr(made)
            await checked(running.url, access(made))
            assert await may(running.url, access(made), KEYS.instance("payments", "vm-1", "x"), write=True)
        await least_credential(running.url, root, Grantee("agent", "vm-1", ("web",)), KEYS)
        assert await may(running.url, access(first), KEYS.instance("web", "vm-1", "x"), write=True)
        assert not await may(running.url, access(first), KEYS.instance("payments", "vm-1", "x"), write=True)
        with pytest.raises(StoreDenied, match="could be made"):
            await least_credential(running.url, access(first), AGENT, KEYS)


async def test_an_absent_server_is_not_taken_for_one_without_acls():
    with pytest.raises(StoreUnavailable):
        await least_credential(f"consul://127.0.0.1:{consul.free_port()}", Access(), AGENT, KEYS)
