"""agent.yaml, environment and flags -> AgentConfig."""

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.config import (
    AgentConfig,
    Machine,
    config_dir,
    host_name,
    load_config,
    make_config,
    misspelt_variables,
    setting_keys,
    variable,
)
from meshagent.config import agent as config
from meshagent.errors import InvalidDocument, UsageProblem

FULL = """\
store: etcd://h1:2379,h2:2379
host: {name: vm-1, address: 10.0.0.11, region: eu, zone: eu-1a}
data_dir: /data
runtime_dir: /run/x
services_dir: /services
ca: {provider: builtin, path: /ca, ttl: 30m}
envoy: {path: /opt/envoy, concurrency: 4, max_connections: 1000, drain: 500ms}
api: unix:///run/x/api.sock
metrics: "[::1]:9102"
inbound_port: 21500
log_level: debug
"""


def never():
    raise AssertionError("the default route was asked for without need")


ROOT = Machine(0, "VM_1.example.org", Path("/root"), lambda: "10.1.2.3")
USER = Machine(1000, "laptop", Path("/home/ada"), never)


def made(text="", env=None, flags=None, machine=ROOT):
    return make_config(text, "agent.yaml", env or {}, flags or {}, machine)


def refused(text="", env=None, flags=None, machine=ROOT):
    with pytest.raises((InvalidDocument, UsageProblem)) as caught:
        made(text, env, flags, machine)
    assert caught.value.next_step
    return str(caught.value)


def test_every_key_can_stand_in_the_file():
    found = made(FULL)
    assert found.store == "etcd://h1:2379,h2:2379"
    assert found.host.model_dump() == {
        "name": "vm-1",
        "address": "10.0.0.11",
        "region": "eu",
        "zone": "eu-1a",
        "bind": "10.0.0.11",
    }
    assert (found.data_dir, found.runtime_dir, found.services_dir) == (Path("/data"), Path("/run/x"), Path("/services"))
    assert (found.ca.provider, found.ca.ttl, found.ca.provider_settings) == (
        "builtin",
        timedelta(minutes=30),
        {"path": "/ca"},
    )
    assert (found.envoy.path, found.envoy.concurrency, found.envoy.max_connections) == ("/opt/envoy", 4, 1000)
    assert found.envoy.drain == timedelta(milliseconds=500)
    assert (found.api_socket, found.metrics_address) == (Path("/run/x/api.sock"), ("::1", 9102))
    assert (found.inbound_port, found.log_level) == (21500, "debug")


def test_without_a_file_root_has_the_usual_places():
    found = made()
    assert (found.store, found.api) == ("sqlite:///var/lib/meshagent/mesh.db", "unix:///run/meshagent/agent.sock")
    assert (found.data_dir, found.runtime_dir) == (Path("/var/lib/meshagent"), Path("/run/meshagent"))
    assert found.services_dir == Path("/etc/meshagent/services.d")
    assert (found.host.name, found.inbound_port, found.metrics_address) == ("vm-1", 21000, ("127.0.0.1", 9102))


def test_others_have_the_xdg_directories():
    env = {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}
    found = made(env=env, machine=USER)
    assert (found.data_dir, found.runtime_dir) == (Path("/s/meshagent"), Path("/r/meshagent"))
    assert (found.services_dir, config_dir(USER, env)) == (Path("/c/meshagent/services.d"), Path("/c/meshagent"))


@pytest.mark.parametrize("env", [{}, {"XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "conf"}])
def test_xdg_directories_that_are_absent_or_relative_fall_back_to_the_home(env):
    found = made(env=env, machine=USER)
    state = Path("/home/ada/.local/state/meshagent")
    assert (found.data_dir, found.runtime_dir) == (state, state / "run")
    assert found.services_dir == Path("/home/ada/.config/meshagent/services.d")


def test_flags_win_over_environment_over_file_over_defaults():
    text = "inbound_port: 1\nmetrics: none\nhost: {name: file, zone: z1}\nlog_level: error\n"
    env = {"MESHAGENT_INBOUND_PORT": "2", "MESHAGENT_HOST_NAME": "environment", "MESHAGENT_LOG_LEVEL": ""}
    flags = {"inbound_port": 3, "host.name": None, "data_dir": Path("/d")}
    found = made(text, env, flags)
    assert (found.inbound_port, found.host.name, found.host.zone, found.metrics) == (3, "environment", "z1", "none")
    assert found.log_level == "error", "an empty variable says nothing"
    assert found.store == "sqlite:///d/mesh.db", "defaults follow what was said"


def test_every_key_has_a_variable_and_a_description():
    assert [variable(key) for key in setting_keys()][:3] == [
        "MESHAGENT_STORE",
        "MESHAGENT_STORE_TOKEN_FILE",
        "MESHAGENT_STORE_USERNAME",
    ]
    values = {
        "store": "sqlite:///x",
        "host.address": "10.0.0.1",
        "host.bind": "0.0.0.0",
        "ca.ttl": "2h",
        "envoy.drain": "2s",
        "envoy.own_unit": "true",
        "metrics": "none",
        "dns": "127.0.0.1:53",
        "capture.egress": "registered",
        "capture.exclude_addresses": "10.0.0.0/8,fd00::/8",
    }
    values |= {
        "api": "unix:///x",
        "log_level": "debug",
        **dict.fromkeys(("data_dir", "runtime_dir", "services_dir"), "/x"),
    }
    for key in setting_keys():
        found = made(env={variable(key): values.get(key, "7")})
        outer, _, inner = key.partition(".")
        value = getattr(getattr(found, outer), inner) if inner else getattr(found, outer)
        usual = made()
        before = getattr(getattr(usual, outer), inner) if inner else getattr(usual, outer)
        assert value != before, key
    for model in (AgentConfig, config.HostConfig, config.CaConfig, config.EnvoyConfig):
        assert all(field.description for field in model.model_fields.values())


def test_settings_of_a_ca_provider_can_stand_in_the_environment():
    assert made(env={"MESHAGENT_CA_PATH": "/ca", "MESHAGENT_CA_TTL": "5m"}).ca.provider_settings == {"path": "/ca"}
    assert made("ca: {path: /a, role: x}\n", {"MESHAGENT_CA_PATH": "/b"}).ca.provider_settings == {
        "path": "/b",
        "role": "x",
    }


def test_all_problems_come_at_once_with_the_place_they_come_from():
    text = "stor: x\nenvoy:\n  concurrency: 0\nhost: vm-1\nmetrics: 9102\n"
    assert refused(text, {"MESHAGENT_CA_TTL": "5"}, {"inbound_port": 70000}).splitlines() == [
        "agent.yaml:1: stor: is not a field of agent config (did you mean store?)",
        "agent.yaml:3: envoy.concurrency: must be at least 1, not 0",
        "agent.yaml:4: host: must be a mapping of fields, not 'vm-1'",
        "agent.yaml:5: metrics: must be text, not 9102 (write it in quotes)",
        "MESHAGENT_CA_TTL: must be a duration such as 500ms, 5s, 2m or 1h, not '5'",
        "--inbound-port: must be at most 65535, not '70000'",
    ]


def test_a_bad_file_is_an_invalid_document_and_a_bad_variable_or_flag_a_usage_problem():
    with pytest.raises(InvalidDocument):
        made("api: http://localhost\n")
    with pytest.raises(UsageProblem, match="^MESHAGENT_INBOUND_PORT: must be a whole number, not 'x'$"):
        made(env={"MESHAGENT_INBOUND_PORT": "x"})
    with pytest.raises(UsageProblem, match="^--host-name: must be 1 to 63 lower-case letters"):
        made(flags={"host.name": "VM"})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:15053", ("127.0.0.1", 15053)),
        ("127.0.0.54:53", ("127.0.0.54", 53)),
        ("[::1]:53", ("::1", 53)),
        ("none", None),
    ],
)
def test_names_are_answered_on_a_loopback_address_or_nowhere(text, address):
    assert made(f"dns: '{text}'").dns_address == address


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:53", "10.0.0.1:53", "[::]:53", "localhost:53", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:53"],
)
def test_names_are_answered_to_nobody_else(text):
    assert "must be a loopback address and a port" in refused(f"dns: '{text}'")


@pytest.mark.parametrize(
    "zone", ["Mesh", "mesh.", ".mesh", "a..b", "local", "x.localhost", "248.in-addr.arpa", "_x", "-a"]
)
def test_a_zone_that_is_no_name_or_has_another_meaning_is_refused(zone):
    assert refused(f"dns_zone: '{zone}'").startswith("agent.yaml:1: dns_zone: must ")


@pytest.mark.parametrize("metrics", ["9102", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "a b:1", ":9102"])
def test_metrics_are_host_and_port_or_none(metrics):
    assert refused(env={"MESHAGENT_METRICS": metrics}).startswith("MESHAGENT_METRICS: must be host:port or none")


def test_the_address_is_loopback_for_one_machine_and_else_that_of_the_default_route():
    assert made(machine=USER).host.address == "127.0.0.1"
    assert made("store: etcd://h:2379\n").host.address == "10.1.2.3"
    assert made("store: etcd://h:2379\nhost: {address: '::1'}\n", machine=USER).host.address == "::1"


def test_a_host_listens_at_its_address_unless_told():
    assert made("store: etcd://h:2379\n").host.bind == "10.1.2.3"
    mapped = made("host: {address: 192.0.2.7, bind: 0.0.0.0}\n").host
    assert (mapped.address, mapped.bind) == ("192.0.2.7", "0.0.0.0")


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("VM_1.example.org", "vm-1"), ("-a-.b", "a"), ("x" * 80, "x" * 63), ("äöü", "host"), ("", "host"), ("a.b.c", "a")],
)
def test_a_hostname_becomes_a_name_of_the_mesh(hostname, name):
    assert host_name(hostname) == name
    assert made(machine=Machine(0, hostname, Path("/root"), never)).host.name == name


def test_a_socket_path_longer_than_the_kernel_takes_is_refused_with_a_way_out():
    fits = "/" + "r" * (107 - len("//admin.sock"))
    assert made(f"runtime_dir: {fits}\n").runtime_dir == Path(fits)
    assert "is too long for a Unix socket (107 bytes at most)" in refused(f"runtime_dir: {fits}r\n")
    assert "is too long" in refused(f"api: unix:///{'ä' * 60}\n")


def test_relative_directories_are_those_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert made(flags={"data_dir": Path("d")}).data_dir == tmp_path / "d"


def test_a_misspelt_variable_is_told_and_strange_ones_are_not():
    env = {"MESHAGENT_STOER": "x", "MESHAGENT_STORE": "x", "MESHAGENT_HOSTNAME": "x", "MESHAGENT_REQUIRE_SERVERS": "1"}
    env |= {"MESHAGENT_CONFIG": "x", "MESHAGENT_CA_PATH": "/x", "MESHAGENT_CA_PROVIDR": "x", "STOER": "x"}
    assert misspelt_variables(env) == (
        "MESHAGENT_CA_PROVIDR is not a setting: did you mean MESHAGENT_CA_PROVIDER?",
        "MESHAGENT_HOSTNAME is not a setting: did you mean MESHAGENT_HOST_NAME?",
        "MESHAGENT_STOER is not a setting: did you mean MESHAGENT_STORE?",
    )


def test_a_file_is_read_where_it_is_named_or_where_it_stands_by_default(tmp_path, monkeypatch):
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert load_config(env=env).inbound_port == 21000, "a default file that is not there is no problem"
    (tmp_path / "meshagent").mkdir()
    (tmp_path / "meshagent" / "agent.yaml").write_bytes(b"\xef\xbb\xbfinbound_port: 5\n")
    (tmp_path / "other.yaml").write_text("inbound_port: 6\n")
    assert load_config(env=env).inbound_port == 5
    assert load_config(tmp_path / "other.yaml", env=env).inbound_port == 6
    assert load_config(tmp_path / "other.yaml", {"inbound_port": 7}, env).inbound_port == 7


def test_a_named_file_that_cannot_be_read_is_a_usage_problem(tmp_path):
    with pytest.raises(UsageProblem, match="there is no configuration file"):
        load_config(tmp_path / "gone.yaml", env={})
    with pytest.raises(UsageProblem, match="cannot be read: Is a directory"):
        load_config(tmp_path, env={})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidDocument, match="binary.yaml:1: is not UTF-8 text"):
        load_config(tmp_path / "binary.yaml", env={})


class Probe:
    """A datagram socket on a host that has a route for some families only."""

    def __init__(self, routes):
        self.routes = routes

    def __call__(self, family, _):
        self.family = family
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def connect(self, _):
        if self.family not in self.routes:
            raise OSError(101, "Network is unreachable")

    def getsockname(self):
        return (self.routes[self.family], 40000)


@pytest.mark.parametrize(
    ("routes", "address"),
    [
        ({socket.AF_INET: "10.0.0.5", socket.AF_INET6: "2001:db8::5"}, "10.0.0.5"),
        ({socket.AF_INET6: "2001:db8::5"}, "2001:db8::5"),
    ],
)
def test_the_default_route_s_address_is_ipv4_s_or_else_ipv6_s(monkeypatch, routes, address):
    monkeypatch.setattr(socket, "socket", Probe(routes))
    assert config.route_address() == address


def test_a_host_without_a_route_is_told_to_set_its_address(monkeypatch):
    monkeypatch.setattr(socket, "socket", Probe({}))
    with pytest.raises(UsageProblem, match="no default route") as caught:
        config.route_address()
    assert caught.value.next_step == "set host.address in agent.yaml"


@pytest.mark.parametrize(
    ("metrics", "address", "elsewhere"),
    [
        ("127.0.0.1:9102", "10.0.0.5", ""),
        ("localhost:9102", "10.0.0.5", ""),
        ("[::1]:9102", "10.0.0.5", ""),
        ("none", "10.0.0.5", ""),
        ("127.0.0.1:9102", "127.0.0.1", "127.0.0.1:9102"),
        ("0.0.0.0:9102", "10.0.0.5", "10.0.0.5:9102"),
        ("[::]:9102", "fd00::5", "[fd00::5]:9102"),
        ("10.0.0.9:9102", "10.0.0.5", "10.0.0.9:9102"),
        ("vm-1.example:9102", "10.0.0.5", "vm-1.example:9102"),
    ],
)
def test_other_hosts_are_told_of_a_metrics_page_that_they_can_reach(metrics, address, elsewhere):
    found = made(env={"MESHAGENT_METRICS": metrics, "MESHAGENT_HOST_ADDRESS": address})
    assert found.metrics_elsewhere == elsewhere
