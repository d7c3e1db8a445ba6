"""The sidecar job of nomad/, run by a stand-in for Nomad: two allocations behind port mappings, on a Consul with ACLs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshagent.cli.main import cli
from meshagent.private import write_private
from meshagent.store import open_store
from meshagent.store.access import Access
from tests.nomad.allocation import Allocation
from tests.nomad.jobfile import JOBS, read
from tests.servers import consul
from tests.system.authorities import World
from tests.system.live import free_port
from tests.system.namespaces import hosts, passed_on
from tests.system.test_attacks_nomad import Nomad, token
from tests.system.test_two_hosts import call, until

pytestmark = pytest.mark.system
APP, LOCAL = 8080, 9191
_LIFE = 6  # seconds that a JWT lives
RULES = [{"namespace": "default", "job": each, "task": "meshagent", "services": [each]} for each in ("payments", "web")]
_HERE = Path(__file__).parents[2]
PROGRAMS = {"/opt/meshagent/venv/bin/meshagent": ["env", f"PYTHONPATH={_HERE}", sys.executable, "-m", "meshagent"]}


class Guarded(World):
    """A mesh on a Consul that wants a token."""

    @asynccontextmanager
    async def store(self):
        opened = await open_store(self.url, Access(token_file=self.folder / "operator.token"))
        try:
            yield opened
        finally:
            await opened.close()


def vouch(job, task, audience):
    """A JWT as Nomad signs it, of a short life."""
    return token(nomad_job_id=job, nomad_task=task, aud=audience, exp=int(time.time()) + _LIFE)


def map_port(made, port, address):
    """What Nomad's bridge does: the client's port leads into the allocation."""
    within = made.within("hub")
    subprocess.run([*within, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
    rules = f"""
    table ip mapped{port} {{
      chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {made.address("hub")} tcp dport {port} dnat to {address}:{port}
      }}
      chain postrouting {{
        type nat hook postrouting priority srcnat;
        ct status dnat masquerade
      }}
    }}
    """
    subprocess.run([*within, "nft", "-f", "-"], input=rules.encode(), check=True)


def agent_token(servers, service):
    """A token of what `meshagent store policy` prints for the allocations of a job."""
    words = ("--for", "agent", "--host", f"{service}-*", "--services", service, "--node", "*", "--kind", "consul")
    printed = CliRunner(env={"MESHAGENT_STORE": "", "MESHAGENT_CONFIG": ""}).invoke(cli, ["store", "policy", *words])
    assert printed.exit_code == 0, printed.output
    return servers.policy_token(printed.stdout)


def allocation(made, host, service, world, servers, store, authority, upstreams="[]"):
    """The sidecar job for a service, on a host."""
    text = (JOBS / "sidecar.nomad.hcl").read_text()
    text = text.replace('job "payments"', f'job "{service}"').replace("nomad/jobs/payments", f"nomad/jobs/{service}")
    text = text.replace("provider: authority\n", "provider: authority\n  ttl: 10s\n")
    app = ["-m", "meshagent.demo.apps", "http", "--name", service, "--port", str(APP), "--parent", str(os.getpid())]
    given = {
        "service": service,
        "app": sys.executable,
        "app_args": app,
        "app_port": APP,
        "store": store,
        "authorities": f"[{authority}]",
        "upstreams": upstreams,
        "meshagent_uid": os.getuid(),
    }
    port = free_port()
    map_port(made, port, made.address(host))
    stored = {f"nomad/jobs/{service}": {"mesh_roots": world.root, "store_token": agent_token(servers, service)}}
    job = read(text, given).one("job")
    ports = {"mesh": (made.address("hub"), port)}
    return Allocation(job, world.folder / "alloc", ports, stored, vouch, PROGRAMS, made.within(host))


@asynccontextmanager
async def client():
    """(hosts, mesh, Consul, authority, the two allocations), all running."""
    nomad = Nomad()
    jwks = await asyncio.start_server(nomad.serve, "127.0.0.1", nomad.port)
    async with jwks, consul.guarded_node() as servers, hosts("a", "b") as made:
        with tempfile.TemporaryDirectory(prefix="nomad-") as name:
            world = Guarded(Path(name), servers.url)
            write_private(world.folder / "operator.token", servers.token.encode())
            url = f"http://127.0.0.1:{nomad.port}/.well-known/jwks.json"
            token_file = str(world.folder / "operator.token")
            daemon = await world.found(nomad={"jwks_url": url, "rules": RULES}, store_token_file=token_file)
            await daemon.start()
            place = int(servers.url.rpartition(":")[2]), int(daemon.address.rpartition(":")[2])
            async with passed_on(made, place[0]) as store, passed_on(made, place[1]) as authority:
                shared = (world, servers, f"consul://{store}", authority)
                payments = allocation(made, "b", "payments", *shared)
                calls = f"[{{service: payments, local_port: {LOCAL}}}]"
                web = allocation(made, "a", "web", *shared, upstreams=calls)
                try:
                    await asyncio.gather(payments.start(), web.start())
                    renewer = asyncio.create_task(renewing(payments, web))
                    yield made, world, servers, daemon, payments, web
                    renewer.cancel()
                except AssertionError:
                    print(payments.log("meshagent"), web.log("meshagent"), sep="\n\n")
                    raise
                finally:
                    for each in (payments, web):
                        for process in each.running.values():
                            with suppress(ProcessLookupError):
                                process.terminate()
                        await asyncio.gather(*(process.wait() for process in each.running.values()))
                        each.clear()
                    await world.close()


async def renewing(*allocations):
    """Nomad renews a JWT in good time before it ends."""
    while True:
        await asyncio.sleep(_LIFE / 3)
        for each in allocations:
            each.renew()


async def renewals(daemon, service, more):
    """Until the authority has signed so many more certificates for a job's task."""
    by = f"nomad:default/{service}/meshagent"
    before, end = len([line for line in daemon.audit() if line["by"] == by]), time.monotonic() + 60
    while len([line for line in daemon.audit() if line["by"] == by]) < before + more:
        assert time.monotonic() < end, daemon.audit()[-3:]
        await asyncio.sleep(0.2)


async def started(one, times):
    """Until an allocation's agent has started so often."""
    end = time.monotonic() + 60
    while one.log("meshagent").count('"agent_started"') < times:
        assert time.monotonic() < end, one.log("meshagent")[-2000:]
        await asyncio.sleep(0.1)


async def test_the_sidecar_job_joins_serves_renews_survives_and_leaves():
    async with client() as (made, world, servers, daemon, payments, web):
        assert "intention" in await until(made, "a", LOCAL, 403, wait=90)
        environment = os.environ | {
            "MESHAGENT_STORE": servers.url,
            "MESHAGENT_STORE_TOKEN_FILE": str(world.folder / "operator.token"),
        }
        words = ("intention", "allow", "web", "payments")
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "meshagent", *words, env=environment)
        assert await process.wait() == 0
        answer = await until(made, "a", LOCAL, 200, wait=30)
        assert "spiffe://mesh.internal/svc/web" in answer

        # Certificates outlive the JWT that they were first asked with.
        await asyncio.sleep(_LIFE)
        await renewals(daemon, "payments", 1)
        assert (await call(made, "a", LOCAL))[0] == 200

        # A task that dies is started again, and its Envoy serves meanwhile.
        killed = asyncio.create_task(payments.kill("meshagent"))
        answers = [await call(made, "a", LOCAL) for _ in range(3)]
        await killed
        assert [each for each in answers if each[0] != 200] == []
        await started(payments, 2)
        await until(made, "a", LOCAL, 200, wait=30)

        # Stopped by its signal within its patience, it is out of the catalog.
        await payments.stop()
        await until(made, "a", LOCAL, 503, wait=30)
        assert servers.call("GET", "/v1/health/service/payments?passing=true") == []

        said = "".join(each.log("meshagent") for each in (payments, web))
        tokens = {
            (each.secrets("meshagent") / file).read_text() for each in (payments, web) for file in ("store.token",)
        }
        jwts = {(each.secrets("meshagent") / "nomad_meshagent.jwt").read_text() for each in (payments, web)}
        assert not [secret for secret in tokens | jwts if secret.strip() in said]
