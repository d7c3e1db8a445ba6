"""Gateways: where traffic from outside enters the mesh. Told apart by host and path, led on as the gateway's own calls."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meshagent.model.intention import Path
from meshagent.model.names import ANY, BindAddress, Model, ServiceName

MAX_LISTENERS, MAX_CERTIFICATES, MAX_ROUTES, MAX_HOSTS = 16, 64, 1024, 64
_LONGEST_HOST = 253
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
Port = Annotated[int, Field(ge=1, le=65535)]


def _check_host(text: str) -> str:
    if text != ANY and not (_HOST.fullmatch(text) and len(text) <= _LONGEST_HOST):
        raise ValueError("must be a lower-case name such as shop.example.org, *.example.org, or *, without a port")
    return text


def _check_file(text: str) -> str:
    if "\x00" in text or "/../" in f"{text}/" or "//" in text:
        raise ValueError("must be a plain absolute path")
    return text


HostPattern = Annotated[str, AfterValidator(_check_host)]
File = Annotated[str, Field(pattern=r"^/.{1,254}$"), AfterValidator(_check_file)]


class CertificateFiles(Model):
    """A certificate chain and its key, as PEM files on each host that serves the gateway."""

    cert_file: File
    key_file: File


class GatewayTls(CertificateFiles):
    """TLS towards outside. `others`: further certificates; the name that a client asks for chooses, or else the first."""

    others: tuple[CertificateFiles, ...] = Field(default=(), max_length=MAX_CERTIFICATES - 1)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        files = [each.cert_file for each in self.certificates]
        if len(set(files)) < len(files):
            raise ValueError("names a cert_file twice")
        return self

    @property
    def certificates(self) -> tuple[CertificateFiles, ...]:
        """All of them, the first for clients whose name is none of theirs."""
        return (CertificateFiles(cert_file=self.cert_file, key_file=self.key_file), *self.others)


class GatewayListener(Model):
    """A port that is open to outside: TLS where `tls` says with what, else plain text. More connections are closed.

    `http3`: HTTP/3 too, on the UDP port of the same number.
    """

    port: Port
    address: BindAddress = "0.0.0.0"  # noqa: S104 - a gateway is there for everybody
    tls: GatewayTls | None = None
    http3: bool = False
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _encrypts_http3(self) -> Self:
        if self.http3 and self.tls is None:
            raise ValueError("http3: is always encrypted, so it needs tls")
        return self


class GatewayRoute(Model):
    """Requests for one of these hosts, on this path and below it, go to the service as its own route document says."""

    hosts: tuple[HostPattern, ...] = Field(min_length=1, max_length=MAX_HOSTS)
    path_prefix: Path = "/"
    service: ServiceName

    def takes(self, path_prefix: str) -> bool:
        """Whether all paths of a prefix are this route's."""
        bare = self.path_prefix.rstrip("/")
        return f"{path_prefix.rstrip('/')}/".startswith(f"{bare}/")


class Gateway(Model):
    """What a gateway takes from outside and where it goes. Of a host's routes, the first whose path fits decides.

    It calls as the service of its own name: intentions from that name decide what it may.
    """

    kind: Literal["gateway"] = "gateway"
    name: ServiceName
    listeners: tuple[GatewayListener, ...] = Field(min_length=1, max_length=MAX_LISTENERS)
    routes: tuple[GatewayRoute, ...] = Field(default=(), max_length=MAX_ROUTES)

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = [listener.port for listener in self.listeners]
        if len(set(ports)) < len(ports):
            raise ValueError("listeners: two have the same port")
        return self

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        keys: dict[str, str] = {}
        for each in self.certificates:
            if keys.setdefault(each.cert_file, each.key_file) != each.key_file:
                raise ValueError(f"listeners: {each.cert_file} is given two key files")
        return self

    @model_validator(mode="after")
    def _routes_are_reached(self) -> Self:
        before: dict[str, list[GatewayRoute]] = {}
        for number, route in enumerate(self.routes):
            if len(set(route.hosts)) < len(route.hosts):
                raise ValueError(f"routes: number {number} names a host twice")
            for host in route.hosts:
                if any(other.takes(route.path_prefix) for other in before.get(host, ())):
                    raise ValueError(
                        f"routes: number {number} is never reached for {host}: one before it takes {route.path_prefix}"
                    )
                before.setdefault(host, []).append(route)
        return self

    @property
    def services(self) -> frozenset[str]:
        """The services that it leads to."""
        return frozenset(route.service for route in self.routes)

    @property
    def certificates(self) -> tuple[CertificateFiles, ...]:
        """The certificates of all listeners."""
        return tuple(each for listener in self.listeners if listener.tls for each in listener.tls.certificates)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain with its key, as read from files."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
