"""Names outside the mesh that services of it may call through their own proxy."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meshagent.model.names import HTTP_PROTOCOLS, Model, ServiceName, check_address

Port = Annotated[int, Field(ge=1, le=65535)]
MAX_HOSTS = 16
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST_NAME = 253
_HTTP_PORT, _HTTPS_PORT = 80, 443


def is_address(text: str) -> bool:
    """Whether it is an IP address, and not a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_dns_name(text: str) -> str:
    """A DNS name in lower case, without a wildcard or a final dot; raises ValueError."""
    if not _DNS_NAME.fullmatch(text) or len(text) > _LONGEST_NAME or text.rpartition(".")[2].isdigit():
        raise ValueError("must be a DNS name in lower case, such as api.stripe.com (wildcards are not taken)")
    return text


def check_host(text: str) -> str:
    """A DNS name, or an address that can be connected to; raises ValueError."""
    return check_address(text) if is_address(text) else check_dns_name(text)


DnsName = Annotated[str, AfterValidator(check_dns_name)]
HostName = Annotated[str, AfterValidator(check_host)]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00\r\n]+$", max_length=4096)]


class ExternalTls(Model):
    """Who speaks TLS with the outside: the proxy (originate), the app itself (passthrough), or nobody (none).

    With originate the other side is always verified: by the roots of `ca_file` (of the caller's host; its system roots
    unless told), and by its name: one of `subject_alt_names`, else `sni`, else the one host.
    """

    mode: Literal["originate", "passthrough", "none"]
    sni: DnsName | None = None
    ca_file: AbsolutePath | None = None
    subject_alt_names: tuple[HostName, ...] = Field(default=(), max_length=MAX_HOSTS)

    @model_validator(mode="after")
    def _says_only_what_counts(self) -> Self:
        given = [name for name in ("sni", "ca_file", "subject_alt_names") if getattr(self, name)]
        if given and self.mode != "originate":
            raise ValueError(f"{given[0]} is of mode originate: with {self.mode} the proxy has no part in TLS")
        return self


class External(Model):
    """A name outside the mesh. Services declare it as an upstream, and an intention on its name allows each.

    `hosts`: all of them offer the same, at `port`. With passthrough, each is called by its own name alone.
    """

    kind: Literal["external"] = "external"
    name: ServiceName
    hosts: tuple[HostName, ...] = Field(min_length=1, max_length=MAX_HOSTS)
    port: Port
    tls: ExternalTls
    protocol: Literal["http", "http2", "tcp"] = "tcp"

    @model_validator(mode="after")
    def _hosts_differ(self) -> Self:
        if len(set(self.hosts)) != len(self.hosts):
            raise ValueError("hosts: one is named twice")
        return self

    @model_validator(mode="after")
    def _can_be_passed_through(self) -> Self:
        if self.tls.mode != "passthrough":
            return self
        if self.protocol != "tcp":
            raise ValueError("tls: passthrough needs protocol tcp: the proxy does not see what the app encrypts")
        if addresses := [host for host in self.hosts if is_address(host)]:
            raise ValueError(f"tls: passthrough goes by the name that the app calls, and {addresses[0]} is an address")
        return self

    @model_validator(mode="after")
    def _can_be_verified(self) -> Self:
        told = self.tls.sni or self.tls.subject_alt_names
        if self.tls.mode == "originate" and not told and len(self.hosts) > 1:
            raise ValueError("tls: with several hosts, sni or subject_alt_names has to say whom they prove to be")
        return self

    @property
    def http(self) -> bool:
        """Whether the caller's proxy sees requests."""
        return self.protocol in HTTP_PROTOCOLS

    @property
    def server_name(self) -> str:
        """What the proxy asks for in TLS; empty for an address, which TLS does not name."""
        return self.tls.sni or ("" if is_address(self.hosts[0]) else self.hosts[0])

    @property
    def proven_names(self) -> tuple[str, ...]:
        """The names of which the other side's certificate must show one (originate)."""
        return self.tls.subject_alt_names or ((self.tls.sni,) if self.tls.sni else self.hosts[:1])

    @property
    def authority(self) -> str:
        """The Host that every request carries, whatever the app wrote: the port is left out where the scheme implies it."""
        host = self.tls.sni or self.hosts[0]
        implied = _HTTPS_PORT if self.tls.mode == "originate" else _HTTP_PORT
        bracketed = f"[{host}]" if ":" in host else host
        return bracketed if self.port == implied else f"{bracketed}:{self.port}"
