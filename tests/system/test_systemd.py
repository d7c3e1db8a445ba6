"""A real systemd, the real package: installed, killed, hung, reloaded, upgraded, stopped, and what calls see of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers.programs import program
from tests.system.booted import CACHE, booted, package

pytestmark = pytest.mark.timeout(900)  # the first run makes a Debian and a venv; later ones take half a minute to begin
AGENT, ENVOY, AUTHORITY = "meshagent.service", "meshagent-envoy.service", "meshagent-authority.service"
REDIRECT = "meshagent-redirect.service"
NEWER = "9.9.9"
ETCD = ("--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379")
ETCD += ("--listen-peer-urls=http://127.0.0.1:2380",)
SECRET = "/etc/meshagent/secrets/store.token"
SETTINGS = f"""
envoy: {{drain: 8s}}
store_token_file: {SECRET}
"""
READ_SECRET = """
from pathlib import Path
from meshagent.config import load_config
from meshagent.private import read_private
print(read_private(load_config(Path("/etc/meshagent/agent.yaml")).store_token_file).decode())
"""
SERVICES = """
name: api
port: 8080
protocol: http
---
name: web
port: 8081
protocol: http
upstreams:
  - service: api
    local_port: 9001
---
name: ops
port: 8082
protocol: http
upstreams:
  - service: api
    local_port: 443
"""
CAPTURED = """
name: hidden
port: 8085
protocol: http
capture: {user: 51001}
"""
APP = """
import http.server, time
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(3 if self.path == "/slow" else 0)
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), App).serve_forever()
"""
STATUS_AT_443 = """
import urllib.error, urllib.request
try: urllib.request.urlopen("http://127.0.0.1:443/", timeout=5)
except urllib.error.HTTPError as error: print(error.code)
"""
CALL = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9001{path}', timeout=15).status)"


@dataclass
class Host:
    """The machine, and what the installation left."""

    machine: object
    installed: dict[str, str] = field(default_factory=dict)

    def answers(self) -> bool:
        return self.call() == "200"

    def call(self, path: str = "/") -> str:
        return self.machine.run("/usr/bin/python3", "-c", CALL.format(path=path), check=False).splitlines()[-1]

    def runs_anew(self, before: int) -> None:
        """Until another agent than this one is ready, and Envoy has had its stream to it for a moment."""
        self.machine.wait(lambda: self.machine.pid(AGENT) not in (0, before), "another agent")
        self.machine.wait(lambda: self.machine.unit(AGENT, "SubState") == "running", "it is ready")
        self.machine.wait(lambda: "ready" in self.machine.run("meshagent", "status", check=False), "Envoy is connected")
        self.machine.run("sleep", "0.5")

    def pids(self) -> tuple[int, int]:
        return self.machine.pid(AGENT), self.machine.pid(ENVOY)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    first, second = package(), package(version=NEWER, again=True)
    servers = Path(program("etcd")).parent
    with booted({CACHE: "/packages", servers: "/servers"}, tmp_path_factory.mktemp("machine") / "console") as machine:
        found = Host(machine)
        machine.run("dpkg", "-i", f"/packages/{first.name}")
        found.newer = f"/packages/{second.name}"
        for unit in (AGENT, ENVOY, AUTHORITY, REDIRECT):
            found.installed[unit] = machine.run("systemctl", "is-enabled", unit, check=False)
            found.installed[f"{unit} active"] = machine.run("systemctl", "is-active", unit, check=False)
        machine.run("systemctl", "start", AGENT)
        found.installed["started without settings"] = machine.run("systemctl", "is-active", AGENT, check=False)
        machine.write("/app.py", APP)
        machine.run("systemd-run", "--unit=app", "-q", "/usr/bin/python3", "/app.py")
        machine.write("/etc/meshagent/agent.yaml", SETTINGS, 0o640)
        machine.write(SECRET, "s3cret", 0o600)
        machine.run("mkdir", "-p", f"/etc/systemd/system/{AGENT}.d")
        machine.write(f"/etc/systemd/system/{AGENT}.d/soon.conf", "[Service]\nWatchdogSec=5\n")
        machine.run("systemctl", "daemon-reload")
        machine.write("/etc/meshagent/services.d/shop.yaml", SERVICES)
        machine.run("systemctl", "start", AGENT)
        machine.wait(lambda: "current" in machine.run("meshagent", "status", check=False), "a mesh")
        machine.run("meshagent", "intention", "allow", "web", "api", "--no-wait")
        yield found
        removed(machine)


def removed(machine):
    """The package's removal drains and stops what runs, and leaves settings and state."""
    machine.run("systemctl", "start", AGENT)
    machine.run("dpkg", "-r", "meshagent")
    for unit in (AGENT, ENVOY):
        assert machine.run("systemctl", "is-active", unit, check=False) == "inactive"
    assert "No such file" in machine.run("ls", "/opt/meshagent", check=False)
    assert "agent.yaml" in machine.run("ls", "/etc/meshagent") and "mesh.db" in machine.run("ls", "/var/lib/meshagent")


@pytest.fixture
def serving(host):
    """Agent and Envoy run as units say, and web reaches api."""
    host.machine.run("systemctl", "start", AGENT)
    host.machine.wait(host.answers, "web calls api")
    host.machine.wait(lambda: host.machine.unit(AGENT, "SubState") == "running", "the agent runs")
    return host


def test_the_package_enables_nothing_and_starts_nothing_without_settings(host):
    assert host.installed == {
        AGENT: "disabled",
        f"{AGENT} active": "inactive",
        ENVOY: "static",
        f"{ENVOY} active": "inactive",
        AUTHORITY: "disabled",
        f"{AUTHORITY} active": "inactive",
        REDIRECT: "disabled",
        f"{REDIRECT} active": "inactive",
        "started without settings": "inactive",
    }
    assert host.machine.run("stat", "-c", "%a %U %G", "/etc/meshagent") == "2750 root meshagent"
    assert host.machine.run("stat", "-c", "%a %U %G", "/etc/meshagent/secrets") == "700 root root"


@pytest.mark.parametrize("unit", [AGENT, ENVOY, AUTHORITY, REDIRECT])
def test_a_unit_is_sound_and_its_exposure_is_at_most_2(host, unit):
    path = f"/lib/systemd/system/{unit}"
    assert host.machine.run("systemd-analyze", "verify", "--man=no", path) == ""
    said = host.machine.run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", path)
    assert "Overall exposure level" in said


def test_both_run_as_their_user_with_one_capability(serving):
    agent, envoy = serving.pids()
    status = {pid: serving.machine.run("cat", f"/proc/{pid}/status") for pid in (agent, envoy)}
    user = serving.machine.run("id", "-u", "meshagent")
    for text in status.values():
        assert f"Uid:\t{user}\t{user}" in text and "NoNewPrivs:\t1" in text and "Seccomp:\t2" in text
        assert "CapEff:\t0000000000000400" in text  # CAP_NET_BIND_SERVICE


def test_neither_sees_or_writes_more_than_its_own_and_a_port_below_1024_is_open_to_both(serving):
    machine = serving.machine
    for place in ("/var/lib/meshagent", "/run/meshagent"):
        assert machine.run("stat", "-c", "%a %U", place) == "700 meshagent"
    assert machine.run("stat", "-c", "%a %U", "/run/meshagent/admin.sock") == "600 meshagent"
    machine.run("touch", "/tmp/of-others", "/var/lib/meshagent/of-ours")
    for pid in serving.pids():
        inside = ("nsenter", "-t", str(pid), "-m", "--wd=/", "--")
        for path in ("/etc/meshagent/x", "/usr/bin/x", "/var/lib/x"):
            assert "Read-only file system" in machine.run(*inside, "touch", path, check=False)
        assert "No such file" in machine.run(*inside, "ls", "/tmp/of-others", check=False)
        machine.run(*inside, "touch", "/tmp/ours", "/var/lib/meshagent/of-ours")
    machine.run("rm", "/tmp/of-others", "/var/lib/meshagent/of-ours")
    assert machine.run("/usr/bin/python3", "-c", STATUS_AT_443) == "403"


def test_limits_of_memory_and_cpu_are_set_for_envoy_alone_while_it_serves(serving):
    serving.machine.run("systemctl", "set-property", "--runtime", ENVOY, "MemoryMax=1G", "CPUQuota=150%")
    assert serving.machine.unit(ENVOY, "MemoryMax") == str(1 << 30) != serving.machine.unit(AGENT, "MemoryMax")
    assert serving.answers()


def test_a_secret_of_roots_reaches_the_agent_as_a_copy_that_is_its_own(serving):
    inside = ["nsenter", "-t", str(serving.machine.pid(AGENT)), "-m", "--wd=/", "--", "setpriv", "--reuid=meshagent"]
    inside += ["--regid=meshagent", "--clear-groups"]
    assert "Permission denied" in serving.machine.run(*inside, "cat", SECRET, check=False)
    environ = serving.machine.run("/bin/sh", "-c", f"tr '\\0' '\\n' < /proc/{serving.machine.pid(AGENT)}/environ")
    said = [line for line in environ.splitlines() if line.startswith(("CREDENTIALS_DIRECTORY=", "XDG_"))]
    assert serving.machine.run(*inside, "env", *said, "/opt/meshagent/venv/bin/python", "-c", READ_SECRET) == "s3cret"
    assert "s3cret" not in environ


def test_an_agent_that_is_killed_comes_back_and_no_request_fails(serving):
    agent, envoy = serving.pids()
    with serving.machine.calling() as calls:
        serving.machine.run("systemctl", "kill", "-s", "KILL", AGENT)
        serving.runs_anew(agent)
    assert serving.machine.pid(ENVOY) == envoy
    assert calls["failed"] == 0 and calls["ok"] > 20


def test_an_agent_that_hangs_is_killed_by_the_watchdog_and_no_request_fails(serving):
    agent, envoy = serving.pids()
    with serving.machine.calling() as calls:
        serving.machine.run("systemctl", "kill", "-s", "STOP", AGENT)
        serving.runs_anew(agent)
    assert "Watchdog timeout" in serving.machine.run("journalctl", "-u", AGENT, "--no-pager", "-n", "200")
    assert serving.machine.pid(ENVOY) == envoy
    assert calls["failed"] == 0 and calls["ok"] > 20


def test_a_restart_leaves_envoy_alone_and_no_request_fails(serving):
    agent, envoy = serving.pids()
    with serving.machine.calling() as calls:
        serving.machine.run("systemctl", "restart", AGENT)
        serving.runs_anew(agent)
    assert serving.machine.pid(ENVOY) == envoy
    assert calls["failed"] == 0 and calls["ok"] > 20


def test_a_reload_reads_the_definitions_again_in_the_same_process(serving):
    pids = serving.pids()
    serving.machine.write("/etc/meshagent/services.d/more.yaml", "name: more\nport: 8090\n")
    serving.machine.run("systemctl", "reload", AGENT)
    serving.machine.wait(lambda: "more" in serving.machine.run("meshagent", "services"), "the new service")
    assert "4 services" in serving.machine.unit(AGENT, "StatusText")
    serving.machine.run("rm", "/etc/meshagent/services.d/more.yaml")
    serving.machine.run("systemctl", "reload", AGENT)
    assert serving.pids() == pids


def test_an_upgrade_starts_the_agent_anew_under_traffic_and_no_request_fails(serving):
    agent, envoy = serving.pids()
    with serving.machine.calling() as calls:
        serving.machine.run("dpkg", "-i", serving.newer)
        serving.runs_anew(agent)
    assert NEWER in serving.machine.run("dpkg-query", "-W", "meshagent")
    assert serving.machine.pid(ENVOY) == envoy
    assert calls["failed"] == 0 and calls["ok"] > 20


def test_a_stop_tells_the_mesh_lets_what_is_under_way_end_and_stops_envoy_too(serving):
    serving.machine.run(
        "systemd-run",
        "--unit=slow",
        "-q",
        "/bin/sh",
        "-c",
        f'python3 -c "{CALL.format(path="/slow")}" > /run/slow 2>&1',
    )
    serving.machine.run("sleep", "0.7")
    serving.machine.run("systemctl", "stop", AGENT)
    assert serving.machine.run("cat", "/run/slow") == "200"
    assert serving.machine.unit(ENVOY, "ActiveState") == serving.machine.unit(AGENT, "ActiveState") == "inactive"
    assert serving.machine.unit(ENVOY, "Result") == serving.machine.unit(AGENT, "Result") == "success"
    assert "api" not in serving.machine.run("meshagent", "services", "--all")
    assert serving.call() != "200"


def test_another_envoy_takes_over_in_its_unit_at_a_reload_and_no_request_fails(serving):
    machine, before = serving.machine, serving.machine.pid(ENVOY)
    machine.run("systemctl", "reload", ENVOY)
    assert machine.pid(ENVOY) == before, "it runs as it should"
    machine.write("/etc/meshagent/agent.yaml", SETTINGS.replace("drain: 8s", "drain: 3s, max_connections: 700"), 0o640)
    agent = machine.pid(AGENT)
    machine.run("systemctl", "restart", AGENT)
    serving.runs_anew(agent)
    restarts = machine.unit(ENVOY, "NRestarts")
    with machine.calling() as calls:
        machine.run("systemctl", "reload", ENVOY)
        machine.wait(lambda: machine.pid(ENVOY) != before, "another main process")
        machine.wait(
            lambda: "No such file" in machine.run("ls", f"/proc/{before}", check=False), "the one before has ended"
        )
    assert calls["failed"] == 0 and calls["ok"] > 20
    assert machine.unit(ENVOY, "ActiveState") == "active" and machine.unit(ENVOY, "NRestarts") == restarts
    machine.wait(
        lambda: f'"pid": {machine.pid(ENVOY)},' in machine.run("meshagent", "status", "-o", "json"), "the agent knows"
    )


def test_capture_is_put_back_without_an_agent_and_ends_when_its_unit_is_stopped(serving):
    machine = serving.machine
    machine.write("/etc/meshagent/services.d/captured.yaml", CAPTURED)
    machine.run("systemctl", "reload", AGENT)
    machine.wait(lambda: "hidden" in machine.run("meshagent", "services"), "the captured service")
    machine.run("systemctl", "enable", "--now", REDIRECT)
    rules = machine.run("nft", "list", "table", "inet", "meshagent")
    assert "meta skuid 51001 redirect to" in rules and "tcp dport 8085" in rules
    assert machine.run("stat", "-c", "%a %U", "/var/lib/meshagent-redirect/rules.nft") == "600 root"
    assert "cycle" not in machine.run("systemd-analyze", "verify", "--man=no", "default.target", check=False)
    machine.run("systemctl", "stop", AGENT)
    assert machine.run("nft", "list", "table", "inet", "meshagent") == rules, "nobody but its own unit opens"
    machine.run("systemctl", "restart", REDIRECT)
    assert machine.run("nft", "list", "table", "inet", "meshagent") == rules
    machine.run("rm", "/etc/meshagent/services.d/captured.yaml")
    machine.run("systemctl", "disable", "--now", REDIRECT)
    assert "No such file" in machine.run("nft", "list", "table", "inet", "meshagent", check=False)


def test_a_restart_of_envoys_unit_brings_this_host_back(serving):
    agent, envoy = serving.pids()
    serving.machine.run("systemctl", "restart", ENVOY)
    serving.machine.wait(serving.answers, "web calls api again")
    assert serving.machine.pid(ENVOY) not in (0, envoy)
    assert serving.machine.unit(AGENT, "ActiveState") == "active" and serving.machine.pid(AGENT) not in (0, agent)


def test_an_envoy_that_is_killed_comes_back_and_the_agent_stays(serving):
    agent, envoy = serving.pids()
    serving.machine.run("systemctl", "kill", "-s", "KILL", ENVOY)
    serving.machine.wait(lambda: serving.machine.pid(ENVOY) not in (0, envoy), "another Envoy")
    serving.machine.wait(serving.answers, "web calls api again")
    assert serving.machine.pid(AGENT) == agent


@pytest.fixture
def unsettled(host):
    """The same machine with etcd, and as if nobody had set it up yet; afterwards all is as before."""
    machine, kept = host.machine, ("/etc/meshagent/agent.yaml", "/etc/meshagent/services.d", "/var/lib/meshagent")
    machine.run("systemctl", "stop", AGENT)
    for path in kept:
        machine.run("mv", path, f"{path}.kept")
    machine.run("systemd-run", "--unit=etcd", "-q", "/servers/etcd", "--data-dir=/run/etcd", *ETCD)
    machine.wait(lambda: "is healthy" in machine.run("/servers/etcdctl", "endpoint", "health", check=False), "etcd")
    machine.write("/etc/meshagent/agent.yaml", "host: {address: 127.0.0.1}", 0o640)
    yield host
    machine.run("systemctl", "disable", "--now", AGENT, AUTHORITY)
    machine.run("systemctl", "stop", "etcd")
    for path in kept:
        machine.run("rm", "-rf", path)
        machine.run("mv", f"{path}.kept", path)


def test_init_with_start_hands_agent_and_authority_to_systemd_each_as_its_own_user(unsettled):
    machine = unsettled.machine
    words = ["--store", "etcd://127.0.0.1:2379", "init", "--services", "web", "--address", "127.0.0.1:8443", "--start"]
    said = machine.run("meshagent", *words)
    assert f"runs as {AGENT}" in said and f"runs as {AUTHORITY}" in said
    for unit, user in ((AGENT, "meshagent"), (AUTHORITY, "meshagent-authority")):
        assert machine.run("systemctl", "is-enabled", unit) == "enabled"
        assert machine.run("stat", "-c", "%U", f"/proc/{machine.pid(unit)}") == user
    assert machine.run("stat", "-c", "%a %U %G", "/etc/meshagent/agent.yaml") == "640 root meshagent"
    owners = machine.run("find", "/var/lib/meshagent-authority", "/var/lib/meshagent", "-printf", "%u\n").split()
    assert set(owners) == {"meshagent", "meshagent-authority"}
    machine.wait(lambda: "current" in machine.run("meshagent", "status", check=False), "this host is in the mesh")
    pid = machine.pid(AUTHORITY)
    machine.run("systemctl", "reload", AUTHORITY)
    machine.wait(lambda: machine.unit(AUTHORITY, "SubState") == "running", "it has read its settings")
    assert machine.pid(AUTHORITY) == pid and "settings_read" in machine.journal()
