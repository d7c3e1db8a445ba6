"""Services: how others reach one (the document), what a host registers (the definition), what the catalog holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from meshagent.model.failover import Failover, backups, check_order
from meshagent.model.names import Address, DataPath, Duration, Model, Protocol, ServiceName
from meshagent.model.traffic import Admission, Traffic

Port = Annotated[int, Field(ge=1, le=65535)]
MAX_META, MAX_SUBSETS = 64, 64
_LONGEST_CGROUP = 255
_CGROUP_PART = re.compile(r"[A-Za-z0-9_.@:-]+")  # nft takes it in quotes, so nothing that could end them
_OF_REQUESTS = ("max_requests", "max_requests_per_connection", "idle_timeout")  # of a connection pool
Subsets = Annotated[
    dict[ServiceName, Annotated[dict[str, str], Field(min_length=1, max_length=MAX_META)]],
    Field(max_length=MAX_SUBSETS),
]
"""Instances by their meta: {name: {meta key: value}}. An instance is in a subset when it has all of the values."""


class Service(Traffic, Admission):
    """How others reach a service. Its protocol, where given, wins over what instances registered.

    `data_path: l4` carries the calls of allowed callers as bytes: cheaper, and without all that is done by request.
    """

    kind: Literal["service"] = "service"
    name: ServiceName
    protocol: Protocol | None = None
    mtls: Literal["strict", "permissive"] = "strict"
    data_path: DataPath = "l7"
    subsets: Subsets = {}
    failover: Failover = ()

    @model_validator(mode="after")
    def _fails_over_in_order(self) -> Self:
        check_order(self.failover, self.name)
        return self

    @property
    def backups(self) -> tuple[str, ...]:
        """The services that are called in its place, in order."""
        return backups(self.failover)

    def subsets_of(self, meta: Mapping[str, str]) -> tuple[str, ...]:
        """The subsets that an instance with this meta belongs to, by name."""
        return tuple(name for name, wanted in sorted(self.subsets.items()) if wanted.items() <= meta.items())

    @property
    def asked_of_requests(self) -> tuple[tuple[str, str], ...]:
        """(section, field) of each setting that only a proxy which sees requests carries out; field: "" for all of it."""
        pool = self.connection_pool.model_fields_set
        found = [(name, "") for name in ("rate_limit", "adaptive_concurrency") if getattr(self, name) is not None]
        found += [("load_balancer", "hash_on")] if self.load_balancer.hash_on else []
        found += [("connection_pool", name) for name in _OF_REQUESTS if name in pool]
        found += [("timeouts", "request")] if self.timeouts.request else []
        found += [("tracing", "")] if self.tracing and self.tracing.sampling else []
        return tuple(found + ([("retry_budget", "")] if self.retry_budget is not None else []))

    @property
    def as_bytes(self) -> bool:
        """Whether calls are carried as bytes. Where something is asked of requests as well, that counts for more."""
        return self.data_path == "l4" and not self.asked_of_requests

    @property
    def admission(self) -> Admission:
        """What its own proxy needs of it."""
        return Admission.model_construct(**{name: getattr(self, name) for name in Admission.model_fields})

    @property
    def traffic(self) -> Traffic:
        """What its callers' proxies need of it."""
        return Traffic.model_construct(**{name: getattr(self, name) for name in Traffic.model_fields})


class Check(Model):
    """One health check: exactly one of http (URL), tcp (host:port), grpc (host:port[/service]), exec (argv), ttl."""

    http: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    tcp: str | None = Field(default=None, pattern=r"^\S+:[0-9]{1,5}$")
    grpc: str | None = Field(default=None, pattern=r"^[^\s/]+:[0-9]{1,5}(/\S*)?$")
    exec: tuple[str, ...] | None = Field(default=None, min_length=1)
    ttl: Duration | None = None
    interval: Duration = timedelta(seconds=5)
    timeout: Duration = timedelta(seconds=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("http", "tcp", "grpc", "exec", "ttl") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of http, tcp, grpc, exec and ttl")
        for name in ("interval", "timeout"):
            if getattr(self, name).total_seconds() < 0.01:
                raise ValueError(f"{name} must be at least 10ms")
        return self

    @property
    def kind(self) -> str:
        """Which of the five it is."""
        return next(name for name in ("http", "tcp", "grpc", "exec", "ttl") if getattr(self, name) is not None)


class Upstream(Model):
    """A service that this one calls: on a loopback port, or on a Unix socket that its `mode` opens to others."""

    service: ServiceName
    local_port: Port | None = None
    local_socket: str | None = Field(default=None, pattern=r"^/[^\x00]{1,100}$")
    mode: int = Field(default=0o660, ge=0, le=0o777)

    @model_validator(mode="after")
    def _port_or_socket(self) -> Self:
        if self.local_port is not None and self.local_socket is not None:
            raise ValueError("has both local_port and local_socket")
        return self

    @property
    def listened(self) -> bool:
        """Whether it has a port or socket of its own."""
        return self.local_port is not None or self.local_socket is not None


def _check_cgroup(text: str) -> str:
    parts = text.split("/")
    if len(text) > _LONGEST_CGROUP or not all(_CGROUP_PART.fullmatch(part) and part.strip(".") for part in parts):
        raise ValueError("must be a plain path below /sys/fs/cgroup, such as system.slice/web.service")
    return text


Cgroup = Annotated[str, AfterValidator(_check_cgroup)]


class Capture(Model):
    """Whose connections are the service's, so that the kernel can lead them to the mesh: those of a user or a cgroup.

    `inbound`: strict closes the service's port to other hosts, which reach it by mTLS alone.
    """

    user: (
        Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_.-]{0,30}\$?$")]
        | Annotated[int, Field(ge=1, le=2**32 - 2)]
        | None
    ) = None
    cgroup: Cgroup | None = None
    inbound: Literal["strict", "open"] = "strict"

    @model_validator(mode="after")
    def _user_or_cgroup(self) -> Self:
        if (self.user is None) == (self.cgroup is None):
            raise ValueError("needs either user or cgroup")
        return self

    @property
    def whose(self) -> str:
        """Whose connections are meant, in words."""
        return f"cgroup {self.cgroup}" if self.user is None else f"user {self.user}"


class ServiceDefinition(Model):
    """A service as it runs on a host: services.d/*.yaml and `meshagent up`. `id` tells instances on one host apart."""

    name: ServiceName
    id: ServiceName | None = None
    port: Port
    address: Address = "127.0.0.1"
    protocol: Protocol = "tcp"
    meta: dict[str, str] = Field(default_factory=dict, max_length=MAX_META)
    checks: tuple[Check, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    capture: Capture | None = None

    @model_validator(mode="after")
    def _upstreams_differ(self) -> Self:
        if self.capture is None and not all(upstream.listened for upstream in self.upstreams):
            raise ValueError("upstreams: each needs either local_port or local_socket, unless the service has capture")
        for what in ("service", "local_port", "local_socket"):
            seen = [value for value in (getattr(upstream, what) for upstream in self.upstreams) if value is not None]
            if len(set(seen)) != len(seen):
                raise ValueError(f"has two upstreams with the same {what}")
        return self

    @property
    def instance_id(self) -> str:
        """The id given, or the service's name."""
        return self.id or self.name


Health = Literal["passing", "failing", "draining"]


class Instance(Model):
    """One registered running copy, as the catalog holds it. `address`:`port` is where its host takes mTLS for it.

    `plain`: it was registered without meshagent, and takes plain text there. `native`: it too, but it stands behind a
    proxy of Consul's own, which takes mTLS by Consul's CA there.
    """

    service: ServiceName
    host: ServiceName
    id: ServiceName
    address: Address
    port: Port
    protocol: Protocol = "tcp"
    health: Health = "passing"
    meta: dict[str, str] = Field(default_factory=dict, max_length=MAX_META)
    region: str = ""
    zone: str = ""
    plain: bool = False
    native: bool = False

    @model_serializer(mode="wrap")
    def _without_plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Left out where it says nothing: records of instances are as they always were."""
        data: dict[str, Any] = handler(self)
        return {name: value for name, value in data.items() if value or name not in ("plain", "native")}
