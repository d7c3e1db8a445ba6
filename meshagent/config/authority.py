"""authority.yaml and flags -> AuthorityConfig: all that a signing authority is told."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from meshagent.config.agent import Machine, StoreConfig, config_dir, host_name, read_settings_file, route_address, xdg
from meshagent.config.credentials import with_credentials
from meshagent.documents.decode import decode_one
from meshagent.documents.validate import validate
from meshagent.errors import InvalidDocument, UsageProblem
from meshagent.model.names import Duration, Model, ServiceName

FILE = "authority.yaml"
_PLACE = re.compile(r"(\[[0-9a-f:.]+\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})")
_HOUR = timedelta(hours=1)
_LONGEST_TTL, _LONGEST_HOST_TTL = timedelta(hours=24), timedelta(hours=2160)
_NEXT_STEP = "docs/authority.md and docs/reference/configuration.md list every key"


class IssuerConfig(Model):
    """Where the authority's own certificate comes from. Further keys belong to the provider."""

    model_config = ConfigDict(extra="allow", frozen=True)

    provider: Literal["root", "exec", "vault"] = Field(
        default="root",
        description="root: the mesh's own, in the data directory or signed by an operator; exec, vault: another CA.",
    )

    @property
    def provider_settings(self) -> dict[str, Any]:
        """The keys that belong to the provider."""
        return dict(self.model_extra or {})


class RateConfig(Model):
    """How often strangers and hosts may ask, a minute. What is over is refused and counted, not written down."""

    enrol: int = Field(default=120, ge=1, description="Attempts to join, of all together.")
    enrol_per_address: int = Field(default=30, ge=1, description="Attempts to join from one address.")
    sign_per_host: int = Field(default=600, ge=1, description="Certificates for one host or one Nomad job.")
    requests_per_address: int = Field(default=1200, ge=1, description="Requests of any kind from one address.")


class NomadRule(Model):
    """Which services a Nomad workload may be: all of what is named must be equal; there are no patterns."""

    namespace: str = Field(default="default", min_length=1, max_length=128)
    job: str = Field(min_length=1, max_length=256)
    task: str = Field(default="", max_length=256)
    service: str = Field(default="", max_length=256)
    services: tuple[ServiceName, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _check(self) -> NomadRule:
        if bool(self.task) == bool(self.service):
            raise ValueError("must name a task or a service")
        return self


class NomadConfig(Model):
    """Nomad's workload identities."""

    jwks_url: str = Field(default="", description="Nomad's keys, such as https://127.0.0.1:4646/.well-known/jwks.json.")
    jwks_file: Path | None = Field(default=None, description="The same from a file instead.")
    jwks_ca_file: Path | None = Field(default=None, description="PEM roots that the URL's certificate must chain to.")
    audience: str = Field(default="meshagent", min_length=1, max_length=256, description="What `aud` must hold.")
    rules: tuple[NomadRule, ...] = Field(
        default=(), description="Which workload may be which services: namespace, job, task or service, services."
    )

    @field_validator("jwks_url")
    @classmethod
    def _check_url(cls, text: str) -> str:
        parts = urlsplit(text)
        plain = parts.scheme == "http" and _is_loopback(parts.hostname or "")
        if text and not (plain or (parts.scheme == "https" and parts.hostname)):
            raise ValueError("must be https://..., or http:// on this machine")
        return text

    @model_validator(mode="after")
    def _check_source(self) -> NomadConfig:
        if self.rules and bool(self.jwks_url) == bool(self.jwks_file):
            raise ValueError("must have either jwks_url or jwks_file beside its rules")
        return self

    @property
    def on(self) -> bool:
        """Whether workload identities are taken at all."""
        return bool(self.rules)


class AuthorityConfig(StoreConfig):
    """Everything a signing authority is told. Every key is optional."""

    store_for_hosts: str = Field(
        default="",
        description="The store's URL as hosts that join are told. Default: store, unless only this machine reaches it.",
    )
    name: ServiceName = Field(default="authority", description="Name of this authority. Default: the hostname.")
    listen: str = Field(default="0.0.0.0:8443", description="Where it takes HTTPS.")
    address: str = Field(
        default="",
        description="host:port that hosts are told. Default: the default route's address, and listen's port.",
    )
    data_dir: Path = Field(
        default=Path(), description="Keys, certificates and the audit log; one authority a directory."
    )
    max_ttl: Duration = Field(default=_HOUR, description="How long a service's certificate lives at most; up to 24h.")
    host_ttl: Duration = Field(default=timedelta(hours=168), description="How long a host's own certificate lives.")
    rate_limits: RateConfig = Field(default=RateConfig(), description="How often it may be asked.")
    issuer: IssuerConfig = Field(default=IssuerConfig(), description="Where its own certificate comes from.")
    nomad: NomadConfig = Field(default=NomadConfig(), description="Nomad's workload identities.")
    metrics: str = Field(
        default="127.0.0.1:9103", description="Where Prometheus finds its metrics, on this machine; none: nowhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")

    @field_validator("listen", "address")
    @classmethod
    def _check_place(cls, text: str) -> str:
        if text:
            split_place(text)
        return text

    @field_validator("max_ttl")
    @classmethod
    def _check_ttl(cls, value: timedelta) -> timedelta:
        if not timedelta(0) < value <= _LONGEST_TTL:
            raise ValueError("must be more than nothing and at most 24h")
        return value

    @field_validator("host_ttl")
    @classmethod
    def _check_host_ttl(cls, value: timedelta) -> timedelta:
        if not timedelta(0) < value <= _LONGEST_HOST_TTL:
            raise ValueError("must be more than nothing and at most 2160h")
        return value

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, text: str) -> str:
        if text != "none" and not _is_loopback(split_place(text)[0]):
            raise ValueError("must be on this machine, such as 127.0.0.1:9103, or none")
        return text

    @property
    def root_dir(self) -> Path:
        """The directory of the mesh's root, where this machine has it."""
        return self.data_dir / "root"


def split_place(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, an IPv6 address without its brackets. Raises ValueError."""
    match = _PLACE.fullmatch(text)
    if not match or int(match[2]) > 65535:
        raise ValueError("must be host:port, such as 10.0.0.5:8443")
    return match[1].strip("[]"), int(match[2])


def load_authority_config(
    file: Path | None = None, flags: Mapping[str, object] | None = None, env: Mapping[str, str] | None = None
) -> AuthorityConfig:
    """The configuration of this machine's authority. `flags` by key, None: not given. Raises InvalidDocument, UsageProblem.

    Without `file`, authority.yaml is read where it stands by default, and nothing is wrong when it is not there.
    """
    environ = os.environ if env is None else env
    machine = Machine(os.getuid(), socket.gethostname(), Path.home(), route_address)
    path = file or config_dir(machine, environ) / FILE
    return make_authority_config(
        read_settings_file(path, named=file is not None), str(path), environ, flags or {}, machine
    )


def make_authority_config(
    text: str, file: str, env: Mapping[str, str], flags: Mapping[str, object], machine: Machine
) -> AuthorityConfig:
    """The same, of given text and values. Pure but for `machine.route_address`."""
    decoded = decode_one(text, file, AuthorityConfig)
    if decoded.problems:
        raise InvalidDocument(tuple(decoded.problems), next_step=_NEXT_STEP)
    told = {key: str(value) for key, value in flags.items() if value is not None}
    checked = validate(AuthorityConfig, told, strict=False)
    if isinstance(checked, tuple):
        problems = (f"--{'-'.join(map(str, each.path)).replace('_', '-')}: {each.message}" for each in checked)
        raise UsageProblem("\n".join(problems), next_step=_NEXT_STEP)
    data = decoded.documents[0].document.model_dump(exclude_unset=True) | told
    return AuthorityConfig.model_validate(_with_defaults(with_credentials(data, env), env, machine))


def _with_defaults(data: dict[str, Any], env: Mapping[str, str], machine: Machine) -> dict[str, Any]:
    state = (xdg(env, "XDG_STATE_HOME") or machine.home / ".local/state") / "meshagent-authority"
    data.setdefault("data_dir", Path("/var/lib/meshagent-authority") if machine.uid == 0 else state)
    data["data_dir"] = Path(data["data_dir"]).absolute()
    data.setdefault("name", host_name(machine.hostname))
    agents = (xdg(env, "XDG_STATE_HOME") or machine.home / ".local/state") / "meshagent"
    data.setdefault("store", f"sqlite://{Path('/var/lib/meshagent') if machine.uid == 0 else agents}/mesh.db")
    if not data.get("address"):
        host, port = split_place(data.get("listen", "0.0.0.0:8443"))
        host = machine.route_address() if host in ("0.0.0.0", "::") else host  # noqa: S104 - it is compared
        data["address"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if "store_for_hosts" not in data and not _is_own(data["store"]):
        data["store_for_hosts"] = data["store"]
    return data


def _is_own(store: str) -> bool:
    """Whether only this machine reaches that store. Consul on loopback is the agent that every machine has."""
    parts = urlsplit(store)
    return parts.scheme == "sqlite" or (parts.scheme == "etcd" and _is_loopback(parts.hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
