"""Attack tests 25, 26, 31, 33 and 34 of facts/security.md 1.4, live, on a Consul with ACLs and on etcd, with real rights."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshagent.errors import StoreDenied
from meshagent.state.rights import Grantee, consul_rules
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Put
from tests.servers import consul
from tests.servers.either import servers
from tests.system.apps import Load, get
from tests.system.live import KEYS, eventually
from tests.system.shop import RATE, shop

PAYMENTS = KEYS.document("intention", "payments")
GRANTEE = Grantee("agent", "vm-1", ("payments", "web", "orders"), node="n0")


def secret(path: Path, text: str) -> Path:
    """A file that only we can read."""
    path.write_text(text)
    path.chmod(0o600)
    return path


class Guarded:
    """A Consul that denies what no policy allows; the agent has a token of the printed policy, the tests everything."""

    def __init__(self, made: consul.Servers, directory: Path) -> None:
        self.made = made
        self.name = "agent"
        made.call("PUT", "/v1/acl/policy", {"Name": self.name, "Rules": consul_rules(GRANTEE, KEYS)})
        token = made.call("PUT", "/v1/acl/token", {"Policies": [{"Name": self.name}]})
        self.accessor = token["AccessorID"]
        self.agent = Access(token_file=secret(directory / "agent.token", token["SecretID"]))
        self.operator = Access(token_file=secret(directory / "operator.token", made.token))

    def rules(self, text: str) -> None:
        """What the agent's token may do from now on."""
        (policy,) = [each for each in self.made.call("GET", "/v1/acl/policies") if each["Name"] == self.name]
        self.made.call("PUT", f"/v1/acl/policy/{policy['ID']}", {"Name": self.name, "Rules": text})


@asynccontextmanager
async def guarded(tmp_path):
    """A shop whose agent has the least rights. Gives (shop, Consul)."""
    tmp_path.chmod(0o700)
    async with consul.guarded_node() as made:
        consuls = await asyncio.to_thread(Guarded, made, tmp_path)
        async with shop(url=made.url, access=consuls.operator, agent_access=consuls.agent) as it:
            yield it, consuls


async def holds(it, load, seconds=2.0):
    """Nothing changes for a while: who was allowed is, who was denied is not."""
    await asyncio.sleep(seconds)
    assert load.failed() == []
    assert (await get(it.orders)).status == 403
    return it.agent.status()


async def test_attack_25_a_token_that_lost_its_policy_leaves_the_last_good_set_in_force(tmp_path):
    async with guarded(tmp_path) as (it, consuls), Load(it.web, 4, RATE) as load:
        await asyncio.to_thread(consuls.rules, "")
        await it.mesh.intend("payments", web="deny", orders="allow")  # which this agent may not see any more
        await eventually(lambda: it.agent.status()["stale_since"], 40)
        status = await holds(it, load)
        assert "payments" in status["services"]
        await it.mesh.intend("payments", web="allow", orders="deny")
        await asyncio.to_thread(consuls.rules, consul_rules(GRANTEE, KEYS))
        await eventually(lambda: it.agent.status()["store_ok"], 40)


async def test_attack_25_a_deleted_token_leaves_the_last_good_set_in_force(tmp_path):
    async with guarded(tmp_path) as (it, consuls), Load(it.web, 4, RATE) as load:
        await asyncio.to_thread(consuls.made.call, "DELETE", f"/v1/acl/token/{consuls.accessor}")
        await it.mesh.intend("payments", web="deny", orders="allow")
        await eventually(lambda: it.agent.status()["stale_since"], 40)
        await holds(it, load)


async def test_attack_26_one_key_that_is_hidden_from_the_agent_is_not_taken_for_deleted(tmp_path):
    async with guarded(tmp_path) as (it, consuls), Load(it.web, 4, RATE) as load:
        hidden = consul_rules(GRANTEE, KEYS) + f'\nkey "{PAYMENTS}" {{ policy = "deny" }}\n'
        await asyncio.to_thread(consuls.rules, hidden)
        await it.mesh.intend("payments", web="deny", orders="allow")
        await eventually(lambda: it.agent.status()["stale_since"] or it.agent.status()["problems"], 40)
        await holds(it, load)


@pytest.mark.parametrize("odd", ["config/intention/../mesh", "config//mesh", "config/./mesh"])
@pytest.mark.parametrize("kind", ["consul", "etcd"])
async def test_attack_31_no_key_leads_to_another_one(kind, odd):
    async with servers(kind) as made:
        store = await open_store(made.url)
        try:
            await store.commit([Put(KEYS.mesh, b"the mesh")])
            for key in (f"{KEYS.root}{odd}", f"{KEYS.root}config/intention/%2e%2e%2fmesh", f"{KEYS.root}config%2fmesh"):
                try:
                    await store.commit([Put(key, b"another")])
                    found = (await store.read(key)).entries[key].value
                except StoreDenied:
                    continue
                assert found == b"another"
            assert (await store.read(KEYS.mesh)).entries[KEYS.mesh].value == b"the mesh"
        finally:
            await store.close()


async def test_attack_33_on_an_etcd_that_does_not_hold_users_to_their_rights_the_agent_says_so(tmp_path):
    from tests.servers import etcd

    tmp_path.chmod(0o700)
    with etcd.servers(guarded=True) as made:
        access = Access(username="root", password_file=secret(tmp_path / "password", etcd.ROOT_PASSWORD))
        async with shop(url=made.url, access=access) as it, Load(it.web, 4, RATE) as load:
            health = await it.mesh.store.check()
            assert any("CVE-2026-33343" in each or "nested" in each for each in health.problems), health
            newest = (await it.mesh.store.read(KEYS.manifest)).revision
            await asyncio.to_thread(made.ctl, "compaction", str(newest), "--physical")
            await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
            assert load.failed() == []


async def test_attack_34_a_writer_that_floods_its_own_prefix_harms_nobody_else():
    async with servers("etcd") as made, shop(url=made.url) as it, Load(it.web, 4, RATE) as load:
        before = rss(it.agent.process.pid)
        store = it.mesh.store
        for start in range(0, 20_000, 100):
            flood = [Put(KEYS.instance("flooder", "vm-9", f"i{start + each}"), b"x" * 200) for each in range(100)]
            await store.commit(flood)
        with pytest.raises(StoreDenied, match="flooder/vm-9/large"):
            await store.commit([Put(KEYS.instance("flooder", "vm-9", "large"), b"x" * (store.max_value + 1))])
        await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
        assert rss(it.agent.process.pid) < before + 20
        assert load.failed() == []


def rss(pid):
    """Megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
