"""The rights that `meshagent store policy` prints, on a real Consul and a real etcd: enough, and nothing more."""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshagent.cli.main import cli
from meshagent.errors import StoreDenied
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.world import Stated
from meshagent.state.changes import Author, change
from meshagent.state.foundation import add_roots, lay_foundation
from meshagent.state.keys import Interest, Keys
from meshagent.state.rights import Grantee, consul_rules
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Expect, Put
from tests.servers import consul
from tests.servers.programs import program

KEYS = Keys()
AUTHOR = Author("ann", datetime(2026, 11, 21, tzinfo=UTC))
AGENT = Grantee("agent", "vm-1", ("payments",), node="n0")
OPERATOR, AUTHORITY = Grantee("operator"), Grantee("authority")
# What is seeded by whoever may do everything.
SEEDED = (
    KEYS.document("intention", "payments"),
    KEYS.manifest,
    KEYS.mesh,
    KEYS.bundle,
    KEYS.report("vm-1"),
    KEYS.report("vm-2"),
    KEYS.instance("orders", "vm-2", "orders"),
    f"{KEYS.root}authority/key",
    "elsewhere/secret",
)
CONFIG, HISTORY = KEYS.document("intention", "payments"), KEYS.history(7)
INDEX = KEYS.index_of(CONFIG)
REPORT, NEIGHBOUR = KEYS.report("vm-1"), KEYS.report("vm-10")
INSTANCE = KEYS.instance("payments", "vm-1", "payments")
ENROLMENT = (KEYS.signer("a1"), KEYS.token("0a"), KEYS.grant("vm-1"))
REPORTS = (REPORT, KEYS.report("vm-2"), NEIGHBOUR, f"{REPORT}/x")
PROGRESS, MEASURED = KEYS.progress("payments"), KEYS.measured("payments", "vm-1")
ROLLOUTS = (PROGRESS, MEASURED, KEYS.measured("payments", "vm-10"), KEYS.progress("orders"), f"{PROGRESS}/x")
ANSWER = KEYS.answer("payments", "vm-1")
ANSWERS = (ANSWER, KEYS.answer("payments", "vm-10"), KEYS.answer("orders", "vm-1"), f"{ANSWER}/x")
SEALED = f"{KEYS.authority}key"  # what is below authority/ without being one of these is the authorities' alone


def printed(*words: str) -> str:
    """What the command prints."""
    result = CliRunner(env={"MESHAGENT_STORE": "", "MESHAGENT_CONFIG": ""}).invoke(cli, ["store", "policy", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


# --- Consul


@dataclass
class Token:
    """Calls Consul as the holder of a token; an answer is its status."""

    servers: consul.Servers
    secret: str

    def status(self, method: str, path: str, body: object = None) -> int:
        try:
            self.servers.call(method, path, body, token=self.secret)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def may_read(self, key: str) -> bool:
        """Whether it may read a key. A transaction would leave a forbidden one out in silence."""
        return self.status("GET", f"/v1/kv/{key}") == 200

    def may_write(self, key: str) -> bool:
        """Whether it may write a key."""
        form = {"Verb": "set", "Key": key, "Value": base64.b64encode(b"{}").decode()}
        return self.status("PUT", "/v1/txn", [{"KV": form}]) == 200

    def may_register(self, name: str, instance: str, **more: object) -> bool:
        """Whether it may register this instance of a service with the Consul agent."""
        return (
            self.status("PUT", "/v1/agent/service/register", {"Name": name, "ID": instance, "Port": 1, **more}) == 200
        )


@pytest.fixture(scope="module")
def seeded(guarded_consul_servers: consul.Servers) -> consul.Servers:
    root = Token(guarded_consul_servers, guarded_consul_servers.token)
    assert all(root.may_write(key) for key in SEEDED)
    assert root.may_register("orders", "orders-9")
    return guarded_consul_servers


def token_of(servers: consul.Servers, grantee: Grantee) -> Token:
    """A token with the rules that the command prints for the grantee."""
    words = ["--for", grantee.role, "--kind", "consul"]
    if grantee.role == "agent":
        words += ["--host", grantee.host, "--services", ",".join(grantee.services), "--node", grantee.node]
    return Token(servers, servers.policy_token(printed(*words)))


CONSUL_KEYS = {
    # (who, may read, may write)
    "agent": (
        (CONFIG, HISTORY, INDEX, KEYS.manifest, KEYS.mesh, KEYS.bundle, REPORT, *ROLLOUTS, *ANSWERS),
        (REPORT, PROGRESS, MEASURED, ANSWER),
    ),
    "operator": (
        (
            CONFIG,
            HISTORY,
            INDEX,
            KEYS.manifest,
            KEYS.mesh,
            KEYS.bundle,
            REPORT,
            KEYS.report("vm-2"),
            NEIGHBOUR,
            f"{REPORT}/x",
            *ENROLMENT,
            *ROLLOUTS,
        ),
        (CONFIG, HISTORY, INDEX, KEYS.manifest, KEYS.mesh, KEYS.token("0a"), KEYS.grant("vm-1")),
    ),
    "authority": (
        (KEYS.manifest, KEYS.mesh, KEYS.bundle, *REPORTS, *ENROLMENT, SEALED),
        (KEYS.bundle, *ENROLMENT, SEALED),
    ),
}
EVERY_KEY = (
    *(CONFIG, HISTORY, INDEX, KEYS.manifest, KEYS.mesh, KEYS.bundle, REPORT, NEIGHBOUR, f"{REPORT}/x"),
    *(KEYS.report("vm-2"), INSTANCE, *SEEDED[-3:], "meshagent/v1", f"{KEYS.bundle}2", *ENROLMENT, *ROLLOUTS),
    *ANSWERS,
)


@pytest.mark.parametrize("grantee", [AGENT, OPERATOR, AUTHORITY], ids=lambda each: each.role)
def test_attack_32_a_consul_token_reads_and_writes_the_keys_of_its_role_and_no_other(seeded, grantee):
    readable, writable = CONSUL_KEYS[grantee.role]
    root, token = Token(seeded, seeded.token), token_of(seeded, grantee)
    assert all(root.may_write(key) for key in EVERY_KEY)
    assert {key for key in EVERY_KEY if token.may_read(key)} == set(readable)
    assert {key for key in EVERY_KEY if token.may_write(key)} == set(writable)


def test_attack_32_an_agents_consul_token_registers_its_own_services_and_touches_no_others(seeded):
    agent = token_of(seeded, AGENT)
    proxy = {"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "payments"}}
    assert agent.may_register("payments", "payments-1", Check={"TTL": "10s"})
    assert agent.may_register("payments-sidecar-proxy", "payments-1-proxy", **proxy)
    assert agent.status("PUT", "/v1/agent/check/pass/service:payments-1") == 200
    assert agent.status("GET", "/v1/health/service/orders") == agent.status("GET", "/v1/health/connect/orders") == 200
    assert seeded.call("GET", "/v1/health/service/orders", token=agent.secret)
    assert agent.status("PUT", "/v1/agent/service/deregister/payments-1") == 200
    for name, instance in (("orders", "o"), ("payments2", "p"), ("payment", "p"), ("payments", "orders-9")):
        assert not agent.may_register(name, instance), name
    steal = {"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "orders"}}
    assert not agent.may_register("payments-sidecar-proxy", "theft", **steal)
    wish = {"SourceName": "payments", "DestinationName": "orders"}
    planted = {"Node": "vm-2", "Address": "127.0.0.9", "Service": {"Service": "payments", "Port": 1}}
    for method, path, body in (
        ("PUT", "/v1/agent/service/deregister/orders-9", None),
        ("PUT", "/v1/catalog/register", planted),
        ("PUT", "/v1/catalog/deregister", {"Node": "n0"}),
        ("PUT", "/v1/config", {"Kind": "service-defaults", "Name": "orders", "Protocol": "http"}),
        ("POST", "/v1/connect/intentions", {**wish, "SourceType": "consul", "Action": "allow"}),
        ("GET", "/v1/operator/raft/configuration", None),
        ("GET", "/v1/acl/tokens", None),
        ("PUT", "/v1/agent/leave", None),
        ("GET", "/v1/snapshot", None),
        ("PUT", "/v1/session/create", {"Node": "vm-2", "TTL": "10s"}),
    ):
        assert agent.status(method, path, body) == 403, path


@pytest.mark.parametrize("grantee", [OPERATOR, AUTHORITY], ids=lambda each: each.role)
def test_attack_32_who_writes_policy_or_roots_in_consul_registers_nothing(seeded, grantee):
    token = token_of(seeded, grantee)
    assert not token.may_register("payments", "payments-2")
    assert token.status("PUT", "/v1/session/create", {"TTL": "10s"}) == 403
    assert token.status("GET", "/v1/acl/tokens") == 403


async def test_agents_operators_and_authorities_do_their_work_in_consul_with_these_rights(seeded, root, tmp_path):
    keys = Keys(root)

    async def opened(grantee: Grantee | None):
        file = tmp_path / (grantee.role if grantee else "root")
        file.touch(0o600)
        file.write_text(seeded.policy_token(consul_rules(grantee, keys)) if grantee else seeded.token)
        return await open_store(seeded.url, Access(token_file=file))

    stores = [await opened(each) for each in (None, AGENT, OPERATOR, AUTHORITY)]
    try:
        everything, agent, operator, authority = stores
        await lay_foundation(everything, keys, Mesh(), TrustBundle(), AUTHOR)
        assert (await agent.check()).ok
        prefixes = Interest(frozenset({"payments"})).prefixes(keys)
        before = await agent.read(*prefixes)
        lease = await agent.lease(timedelta(seconds=10))
        await agent.commit([Put(keys.report("vm-1"), b"{}", lease.id)])
        async with aclosing(agent.watch(prefixes, after=before.revision)) as watch:
            assert (await change(operator, keys, _says, AUTHOR)).revision == 2
            async for changes in watch:
                if keys.document("intention", "payments") in {entry.key for entry in changes.entries}:
                    break
        await lease.revoke()
        assert await add_roots(authority, keys, TrustBundle((("mesh.internal", ("PEM",)),)))
        for store in (agent, authority):
            with pytest.raises(StoreDenied):
                await change(store, keys, _says, Author("eve", AUTHOR.at))
        for store in (agent, operator):
            with pytest.raises(StoreDenied):
                await add_roots(store, keys, TrustBundle((("mesh.internal", ("EVE",)),)))
        with pytest.raises(StoreDenied):
            await agent.commit([Expect(keys.report("vm-10"), 0), Put(keys.report("vm-10"), b"{}")])
    finally:
        for store in stores:
            await store.close()


def _says(documents):
    held = documents.get(("intention", "payments"))
    action = "deny" if held is None else "allow"
    document = Intention(name="payments", sources=(IntentionSource(name="web", action=action),))
    return {("intention", "payments"): Stated(document)}


# --- etcd


@dataclass
class Etcd:
    """A real etcd, asked with etcdctl as a user."""

    env: dict[str, str]

    def run(self, script: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        env = self.env | ({"ETCDCTL_USER": f"{user}:pw"} if user else {})
        return subprocess.run(["sh", "-ec", script], env=env, capture_output=True, text=True, timeout=30, check=False)

    def done(self, script: str, user: str = "root") -> bool:
        """Whether it is done; what fails must have been refused."""
        ran = self.run(script, user)
        assert ran.returncode == 0 or "permission denied" in ran.stderr, ran.stderr
        return ran.returncode == 0


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """With auth on, the users agent, operator and authority with what is printed for them, and everything seeded."""
    client, peer = (f"http://127.0.0.1:{consul.free_port()}" for _ in range(2))
    path = f"{Path(program('etcdctl')).parent}:{os.environ['PATH']}"
    found = Etcd({"PATH": path, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": client})
    with tempfile.TemporaryDirectory(prefix="etcd-", ignore_cleanup_errors=True) as directory:
        flags = {"data-dir": f"{directory}/data", "listen-client-urls": client, "advertise-client-urls": client}
        flags |= {"listen-peer-urls": peer, "initial-advertise-peer-urls": peer, "initial-cluster": f"default={peer}"}
        command = [program("etcd"), *(f"--{name}={value}" for name, value in flags.items())]
        with Path(directory, "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _prepare(found, Path(directory, "log"))
            yield found
        finally:
            process.kill()
            process.wait()


def _prepare(etcd: Etcd, log: Path) -> None:
    deadline = time.monotonic() + 30
    while etcd.run("etcdctl endpoint health", user="").returncode:
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.1)
    agent = printed("--for", "agent", "--host", "vm-1", "--services", "payments", "--kind", "etcd")
    others = [printed("--for", role, "--kind", "etcd") for role in ("operator", "authority")]
    seeds = [f"etcdctl put {key} {{}}" for key in (*SEEDED, *EVERY_KEY)]
    users = [f"etcdctl user add {name}:pw" for name in ("root", "agent", "operator", "authority")]
    grants = [
        "etcdctl user grant-role root root",
        "etcdctl user grant-role agent meshagent-agent-vm-1",
        "etcdctl user grant-role operator meshagent-operator",
        "etcdctl user grant-role authority meshagent-authority",
    ]
    script = "\n".join([agent, *others, *seeds, *users, "etcdctl role add root", *grants, "etcdctl auth enable"])
    ran = etcd.run(script, user="")
    assert ran.returncode == 0, ran.stderr


_CATALOG = (INSTANCE, KEYS.instance("orders", "vm-2", "orders"))
ETCD_KEYS = {
    "agent": ((*CONSUL_KEYS["agent"][0], *_CATALOG), (*CONSUL_KEYS["agent"][1], INSTANCE)),
    "operator": ((*CONSUL_KEYS["operator"][0], *_CATALOG), CONSUL_KEYS["operator"][1]),
    "authority": CONSUL_KEYS["authority"],
}
ETCD_TREES = {
    "agent": {KEYS.config, KEYS.instances},
    "operator": {KEYS.config, KEYS.instances, KEYS.reports},
    "authority": {KEYS.reports},
}


@pytest.mark.parametrize("user", ["agent", "operator", "authority"])
def test_attack_32_an_etcd_user_reads_and_writes_the_keys_of_its_role_and_no_other(etcd, user):
    readable, writable = ETCD_KEYS[user]
    assert {key for key in EVERY_KEY if etcd.done(f"etcdctl get {key}", user)} == set(readable)
    assert {key for key in EVERY_KEY if etcd.done(f"etcdctl put {key} {{}}", user)} == set(writable)
    trees = {
        tree for tree in (KEYS.config, KEYS.instances, KEYS.reports) if etcd.done(f"etcdctl get --prefix {tree}", user)
    }
    assert trees == ETCD_TREES[user]
    assert not etcd.done(f"etcdctl get --prefix {KEYS.root}", user)


def test_attack_32_an_etcd_agent_reaches_no_other_hosts_instances_and_no_users(etcd):
    for service, host in (("payments", "vm-2"), ("payments", "vm-10"), ("orders", "vm-1"), ("payments2", "vm-1")):
        assert not etcd.done(f"etcdctl put {KEYS.instance(service, host, 'x')} {{}}", "agent")
    for script in (
        "etcdctl user grant-role agent root",
        "etcdctl role grant-permission meshagent-agent-vm-1 --prefix=true readwrite meshagent/",
        "etcdctl user list",
        f"etcdctl del --prefix {KEYS.config}",
    ):
        assert not etcd.done(script, "agent"), script
    both = f"\nput {INSTANCE} x\nput {CONFIG} x\n\n\n"
    assert not etcd.done(f"printf '{both}' | etcdctl txn", "agent")
    assert etcd.run(f"etcdctl get --print-value-only {INSTANCE}").stdout.strip() == "{}"
    leased = "etcdctl lease grant 60 | cut -d' ' -f2"
    assert etcd.done(f"etcdctl put --lease=$({leased}) {KEYS.instance('payments', 'vm-1', '2')} {{}}", "agent")
