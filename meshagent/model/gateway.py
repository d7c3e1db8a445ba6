"""Gateways: where traffic from outside enters the mesh. Told apart by host and path, led on as the gateway's own calls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meshagent.model.certificate import MAX_CERTIFICATES, Acme, Certificate, CertificateFiles
from meshagent.model.intention import Path
from meshagent.model.names import ANY, BindAddress, Model, ServiceName

MAX_LISTENERS, MAX_ROUTES, MAX_HOSTS = 16, 1024, 64
_LONGEST_HOST = 253
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
Port = Annotated[int, Field(ge=1, le=65535)]


def _check_host(text: str) -> str:
    if text != ANY and not (_HOST.fullmatch(text) and len(text) <= _LONGEST_HOST):
        raise ValueError("must be a lower-case name such as shop.example.org, *.example.org, or *, without a port")
    return text


HostPattern = Annotated[str, AfterValidator(_check_host)]


class GatewayTls(Certificate):
    """TLS towards outside. `others`: further certificates; the name that a client asks for chooses, or else the first."""

    others: tuple[Certificate, ...] = Field(default=(), max_length=MAX_CERTIFICATES - 1)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        places = [each.place for each in self.certificates]
        if len(set(places)) < len(places):
            raise ValueError("names a certificate twice")
        return self

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """All of them, the first for clients whose name is none of theirs."""
        return (Certificate(cert_file=self.cert_file, key_file=self.key_file, acme=self.acme), *self.others)


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
    def _certificates_agree(self) -> Self:
        told: dict[str, Certificate] = {}
        for each in self.certificates:
            if told.setdefault(each.place, each) != each:
                raise ValueError(f"listeners: {each.place} is asked for in two ways")
        return self

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.orders and all(listener.tls for listener in self.listeners):
            raise ValueError("listeners: with acme, one without tls is needed: the CA asks on port 80 in plain text")
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
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates of all listeners."""
        return tuple(each for listener in self.listeners if listener.tls for each in listener.tls.certificates)

    @property
    def files(self) -> Iterator[CertificateFiles]:
        """Of those that are read from files, the files."""
        return (each.files for each in self.certificates if each.files)

    @property
    def orders(self) -> tuple[Acme, ...]:
        """Of those that are ordered, what is ordered."""
        return tuple(each.acme for each in self.certificates if each.acme)
