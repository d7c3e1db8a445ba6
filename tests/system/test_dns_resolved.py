"""A real systemd-resolved is led to a real agent for names of the mesh, and asks whom it asked before for all others."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest

from meshagent.errors import UsageProblem
from meshagent.host.resolver import RESTARTS, refuse_other_servers
from meshagent.model.virtual import reverse_zones, virtual_addresses
from tests.system.booted import ROOT, booted
from tests.system.live import eventually, free_port, live_mesh
from tests.system.named import LOOK_UP, cli

pytestmark = pytest.mark.timeout(900)  # the first run makes a Debian
HERE, BEFORE = "127.0.0.1:15053", 5300
ZONES = ("mesh", *reverse_zones())
ADDRESSES = [str(address) for address in virtual_addresses("payments")]
OTHERS = "[Resolve]\nDNS=198.18.0.1\nDomains=corp.example\n"


class Machine:
    """A booted machine with systemd-resolved, which asks a server of its one link."""

    def __init__(self, machine):
        self.machine = machine
        self.within = ("nsenter", "--target", str(machine.leader), "--net", "--")
        for words in (
            ["link", "add", "up0", "type", "veth", "peer", "name", "up1"],
            ["addr", "add", "10.9.0.1/24", "dev", "up0"],
            ["link", "set", "up0", "up"],
            ["link", "set", "up1", "up"],
        ):
            subprocess.run([*self.within, "ip", *words], check=True)
        machine.run("systemctl", "unmask", "systemd-resolved")
        machine.run("ln", "-sf", "../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
        machine.run("systemctl", "start", "systemd-resolved")
        machine.run("resolvectl", "dns", "up0", f"127.0.0.1:{BEFORE}")

    def ask(self, words):
        return self.machine.run(*words)

    def restart(self):
        self.machine.run(*RESTARTS["resolved"])

    def found(self, *names):
        """The addresses that an application finds under each name."""
        return [line.split() for line in self.machine.run("python3", "-c", LOOK_UP, *names).split("\n")]

    @contextmanager
    def before(self, log):
        """The server of the link; `log` gets what it is asked."""
        with log.open("wb") as told:
            words = [*self.within, sys.executable, "-m", "tests.system.named", str(BEFORE)]
            process = subprocess.Popen(words, cwd=ROOT, stdout=told)
            try:
                yield
            finally:
                process.terminate()
                process.wait()


async def test_resolved_asks_the_agent_for_the_mesh_alone_and_is_as_before_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("MESHAGENT_DNS", HERE)
    with booted({}, tmp_path / "console") as machine:
        host = Machine(machine)
        async with live_mesh() as mesh:
            agent = await mesh.agent(within=host.within)
            await agent.up(name="web", port=free_port(), upstreams=[{"service": "payments", "local_port": free_port()}])
            with host.before(tmp_path / "asked"):
                await eventually(lambda: host.found("example.com") == [["9.0.0.7"]], 20)
                refuse_other_servers(host.ask, HERE, ZONES)
                said = await cli(agent, "dns", "install", "--root", str(machine.root))
                assert "etc/systemd/resolved.conf.d/meshagent.conf" in said
                host.restart()
                names = ("payments.mesh", "PAYMENTS.Mesh", "nobody.mesh", "example.com", "mesh.example.com")
                assert host.found(*names) == [ADDRESSES, ADDRESSES, [], ["9.0.0.7"], ["9.0.0.7"]]
                for address in ADDRESSES:
                    assert f"{address}: payments.mesh" in machine.run("resolvectl", "query", address)
                refuse_other_servers(host.ask, HERE, ZONES)
                asked = set((tmp_path / "asked").read_text().split())
                assert {"example.com.", "mesh.example.com."} <= asked and not any(
                    each.endswith(".mesh.") for each in asked
                )

                await cli(agent, "dns", "uninstall", "--root", str(machine.root))
                machine.write("/etc/systemd/resolved.conf.d/others.conf", OTHERS)
                host.restart()
                with pytest.raises(UsageProblem, match=r"other global servers.* 198\.18\.0\.1"):
                    refuse_other_servers(host.ask, HERE, ZONES)
                machine.run("rm", "/etc/systemd/resolved.conf.d/others.conf")
                host.restart()
                assert host.found("example.com") == [["9.0.0.7"]]
                assert host.found("payments.mesh") == [["9.0.0.7"]]
